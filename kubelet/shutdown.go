package kubelet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/coxswain/cox/kubelet/logind"
)

// PowerEvents tells of the machine's shutdowns and delays them; nil in Config
// stands for systemd-logind's.
type PowerEvents interface {
	// Watch tells true when a shutdown begins and false when one is called off.
	Watch(ctx context.Context) (<-chan bool, error)
	// Release lets a shutdown go on; Take delays the next one.
	Release()
	Take() error
}

// runShutdown ends the pods in good time when the machine shuts down, until
// ctx ends (KEP-2000). Without configured steps, or without logind, it does
// nothing.
func (k *Kubelet) runShutdown(ctx context.Context) {
	if len(k.cfg.Shutdown) == 0 {
		return
	}
	power := k.cfg.Power
	if power == nil {
		var total time.Duration
		for _, s := range k.cfg.Shutdown {
			total += s.Grace
		}
		i, err := logind.Open(ctx, total, k.log)
		if err != nil {
			level := k.log.Warn
			if errors.Is(err, logind.ErrNone) {
				level = k.log.Info
			}
			level("pods get no time of their own when the machine shuts down", "reason", err)
			return
		}
		defer i.Close()
		power = i
	}
	events, err := power.Watch(ctx)
	if err != nil {
		k.log.Warn("pods get no time of their own when the machine shuts down", "reason", err)
		return
	}
	for {
		var begins, ok bool
		select {
		case <-ctx.Done():
			return
		case begins, ok = <-events:
			if !ok {
				return
			}
		}
		k.goingDown.Store(begins)
		k.nudgeNode()
		if begins {
			k.log.Info("the machine shuts down: ending the pods")
			k.counts.shutdownBegun.Set(float64(k.cfg.Clock.Now().UnixNano()) / 1e9)
			k.counts.shutdownEnd.Set(0)
			k.endPods(ctx)
			k.counts.shutdownEnd.Set(float64(k.cfg.Clock.Now().UnixNano()) / 1e9)
			power.Release()
			continue
		}
		k.log.Info("the shutdown was called off")
		if err := power.Take(); err != nil {
			k.log.Warn("the next shutdown will not wait for the pods", "error", err)
		}
	}
}

// shutdownGroup are the pods that end together.
type shutdownGroup struct {
	grace   time.Duration
	workers []*worker
}

// shutdownGroups sorts pods into the steps, in the order in which they end:
// those of low priority first. A pod belongs to the highest step that its
// priority reaches, or the lowest of all (KEP-2712).
func shutdownGroups(steps []ShutdownStep, workers []*worker, priority func(*worker) int32) []shutdownGroup {
	out := make([]shutdownGroup, len(steps))
	for i, s := range steps {
		out[i].grace = s.Grace
	}
	for _, w := range workers {
		at := 0
		for i, s := range steps {
			if priority(w) >= s.Priority {
				at = i
			}
		}
		out[at].workers = append(out[at].workers, w)
	}
	return out
}

// endPods ends all pods, group after group, each within its time.
func (k *Kubelet) endPods(ctx context.Context) {
	groups := shutdownGroups(k.cfg.Shutdown, k.allWorkers(), func(w *worker) int32 { return podPriority(w.asked()) })
	for _, g := range groups {
		if len(g.workers) == 0 {
			continue
		}
		k.log.Info("ending pods for the shutdown", "pods", len(g.workers), "grace", g.grace)
		gctx, cancel := context.WithTimeout(ctx, g.grace)
		var wg sync.WaitGroup
		for _, w := range g.workers {
			wg.Go(func() { w.endForShutdown(gctx, g.grace) })
		}
		wg.Wait()
		cancel()
	}
}

// terminated is the reason of pods that ended with the machine.
const terminated = "Terminated"

// endForShutdown ends a pod and waits until its containers have stopped.
func (w *worker) endForShutdown(ctx context.Context, grace time.Duration) {
	w.mu.Lock()
	s := &w.state
	if w.done || s.Released || s.Rejected != nil {
		w.mu.Unlock()
		return
	}
	if s.Ended == nil && !s.deleting() {
		s.Ended = &reason{terminated, "Pod was terminated in response to imminent node shutdown."}
	}
	s.EndGrace = max(grace, time.Second)
	stopped := make(chan struct{})
	w.stopped = append(w.stopped, stopped)
	w.mu.Unlock()
	w.sync()
	select {
	case <-stopped:
	case <-ctx.Done():
	}
}

// tellStopped tells those who wait for the pod's containers to stop. Call with
// the lock held.
func (w *worker) tellStopped() {
	if len(w.stopped) == 0 {
		return
	}
	for _, c := range w.containers {
		if c.running() && !w.done {
			return
		}
	}
	for _, c := range w.stopped {
		close(c)
	}
	w.stopped = nil
}

// admitDuringShutdown refuses every pod while the machine shuts down.
func (k *Kubelet) admitDuringShutdown() *reason {
	if !k.goingDown.Load() {
		return nil
	}
	return &reason{"NodeShutdown", "Pod was rejected as the node is shutting down."}
}

// disrupted says that the node ended the pod for a cause that was not the pod's:
// it was short of something, or shut down. A pod that took more storage than it
// may was not disrupted (API documentation of DisruptionTarget).
func (s *podState) disrupted() bool {
	return s.Ended != nil && (s.Ended.Reason == evicted && !s.Overran || s.Ended.Reason == terminated)
}

// shutdownProblem is why the node is not ready while it goes down.
func (k *Kubelet) shutdownProblem() string {
	if k.goingDown.Load() {
		return "node is shutting down"
	}
	return ""
}

var _ PowerEvents = (*logind.Inhibitor)(nil)
