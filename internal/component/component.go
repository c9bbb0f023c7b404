// Package component runs the parts of a process: a function goes in, and runs
// until the process ends. A part that panics or fails is restarted at its
// border and never takes the others down.
package component

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// Health is how one part fares.
type Health struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	// Message says what is wrong, or was last.
	Message  string `json:"message,omitempty"`
	Restarts int    `json:"restarts,omitempty"`
}

// Group is a set of parts with a common end. It is safe for concurrent use.
type Group struct {
	ctx    context.Context
	cancel context.CancelFunc
	log    *slog.Logger
	wg     sync.WaitGroup

	mu     sync.Mutex
	health map[string]*Health
}

// NewGroup returns a group whose parts end with ctx or Stop.
func NewGroup(ctx context.Context, log *slog.Logger) *Group {
	ctx, cancel := context.WithCancel(ctx)
	return &Group{ctx: ctx, cancel: cancel, log: log, health: map[string]*Health{}}
}

// Go runs a part. When it returns before its context ends, whatever the
// error, or panics, it is called again after a delay that grows from 100 ms
// to 10 s and starts over after a minute without failure.
func (g *Group) Go(name string, run func(ctx context.Context) error) {
	g.mu.Lock()
	g.health[name] = &Health{Name: name, Healthy: true}
	g.mu.Unlock()
	g.wg.Go(func() {
		const first, most = 100 * time.Millisecond, 10 * time.Second
		delay := first
		for {
			begin := time.Now()
			err := protect(g.ctx, run)
			if g.ctx.Err() != nil {
				return
			}
			if time.Since(begin) > time.Minute {
				delay = first
			}
			g.failed(name, err)
			g.log.Error("component ended, restarting it", "component", name, "error", err, "delay", delay)
			select {
			case <-g.ctx.Done():
				return
			case <-time.After(delay):
			}
			delay = min(2*delay, most)
			g.Set(name, true, "")
		}
	})
}

// protect turns a panic into an error that carries the stack.
func protect(ctx context.Context, run func(ctx context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := run(ctx); err != nil {
		return err
	}
	return fmt.Errorf("returned before its end")
}

func (g *Group) failed(name string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.health[name]
	h.Healthy, h.Message = false, firstLine(err.Error())
	h.Restarts++
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// Set records a part's health from outside.
func (g *Group) Set(name string, healthy bool, message string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.health[name]
	if !ok {
		h = &Health{Name: name}
		g.health[name] = h
	}
	h.Healthy = healthy
	if message != "" || !healthy {
		h.Message = message
	}
}

// Health returns every part's health, by name.
func (g *Group) Health() []Health {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Health, 0, len(g.health))
	for _, h := range g.health {
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b Health) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Stop ends all parts and waits for them.
func (g *Group) Stop() {
	g.cancel()
	g.wg.Wait()
}
