package kubelet

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

// line is who has got a turn, and how to end it.
type line struct {
	t *turns

	mu   sync.Mutex // guards below
	had  []string
	done map[string]func()
}

func (l *line) ask(ctx context.Context, name string, kind turnKind) {
	go func() {
		done := l.t.take(ctx, kind, maxTurn)
		if ctx.Err() == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.had = append(l.had, name)
			l.done[name] = done
		}
	}()
	synctest.Wait()
}

func (l *line) end(name string) {
	l.mu.Lock()
	done := l.done[name]
	l.mu.Unlock()
	done()
	synctest.Wait()
}

func (l *line) want(t *testing.T, names ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	// Who got a turn at the same time says so in any order.
	slices.Sort(l.had)
	slices.Sort(names)
	if !slices.Equal(l.had, names) {
		t.Errorf("turns %v, want %v", l.had, names)
	}
}

func newLine() *line {
	return &line{t: &turns{clock: clock.RealClock{}, most: 2}, done: map[string]func(){}}
}

func TestTurnsGoByImportance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ctx := newLine(), t.Context()
		l.ask(ctx, "sandbox 1", turnStart)
		l.ask(ctx, "sandbox 2", turnStart)
		l.ask(ctx, "sandbox 3", turnStart)
		l.ask(ctx, "container", turnFinish)
		l.ask(ctx, "end 1", turnEnd)
		l.ask(ctx, "end 2", turnEnd)
		l.want(t, "sandbox 1", "sandbox 2", "end 1")
		l.end("sandbox 1")
		l.want(t, "sandbox 1", "sandbox 2", "end 1", "container")
		l.end("sandbox 2")
		l.want(t, "sandbox 1", "sandbox 2", "end 1", "container", "sandbox 3")
		l.end("container")
		l.end("sandbox 3")
		// Nothing starts any more: as many ends as there is room for.
		l.want(t, "sandbox 1", "sandbox 2", "end 1", "container", "sandbox 3", "end 2")
		l.end("end 1")
		l.end("end 2")
		if l.t.active != [turnKinds]int{} {
			t.Errorf("still active: %v", l.t.active)
		}
	})
}

// Containers that start again and again keep neither new pods nor those that
// end from their turns, nor are they kept from theirs.
func TestTurnsAmongCrashLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ctx := newLine(), t.Context()
		for _, name := range []string{"again 1", "again 2", "again 3", "again 4", "again 5"} {
			l.ask(ctx, name, turnAgain)
		}
		l.ask(ctx, "end 1", turnEnd)
		l.ask(ctx, "end 2", turnEnd)
		l.ask(ctx, "new 1", turnStart)
		l.ask(ctx, "new 2", turnStart)
		l.ask(ctx, "new 3", turnStart)
		l.want(t, "again 1", "again 2", "end 1", "end 2")
		l.end("again 1")
		l.want(t, "again 1", "again 2", "end 1", "end 2", "new 1")
		l.end("again 2")
		l.want(t, "again 1", "again 2", "end 1", "end 2", "new 1", "new 2", "again 3")
		l.end("new 1")
		l.want(t, "again 1", "again 2", "end 1", "end 2", "new 1", "new 2", "again 3")
		l.end("again 3")
		l.want(t, "again 1", "again 2", "end 1", "end 2", "new 1", "new 2", "again 3", "new 3")
		for _, name := range []string{"new 2", "new 3", "again 4", "again 5", "end 1", "end 2"} {
			l.end(name)
		}
		if l.t.active != [turnKinds]int{} {
			t.Errorf("still active: %v", l.t.active)
		}
	})
}

func TestTurnsOfTheHungAndTheGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ctx := newLine(), t.Context()
		l.ask(ctx, "hangs 1", turnStart)
		l.ask(ctx, "hangs 2", turnStart)
		leaves, leave := context.WithCancel(ctx)
		l.ask(leaves, "leaves", turnStart)
		l.ask(ctx, "waits", turnStart)
		leave()
		synctest.Wait()
		l.want(t, "hangs 1", "hangs 2")
		time.Sleep(maxTurn)
		synctest.Wait()
		l.want(t, "hangs 1", "hangs 2", "waits")
		// They come to an end after all: their places are free already.
		l.end("hangs 1")
		l.end("hangs 2")
		l.end("waits")
		if l.t.active != [turnKinds]int{} {
			t.Errorf("still active: %v", l.t.active)
		}
	})
}
