package kubelet_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/kubelet"
)

// power is a machine whose shutdowns the test begins.
type power struct {
	events   chan bool
	released chan struct{}
}

func (p *power) Watch(context.Context) (<-chan bool, error) { return p.events, nil }
func (p *power) Release()                                   { close(p.released) }
func (p *power) Take() error                                { return nil }

// TestShutdown: when the machine goes down, ordinary pods end before critical
// ones, nothing new is let in, and the node says so.
func TestShutdown(t *testing.T) {
	w := newWorld(t)
	w.stop()
	p := &power{make(chan bool), make(chan struct{})}
	w.change = func(c *kubelet.Config) {
		c.Power = p
		c.Shutdown = []kubelet.ShutdownStep{{Grace: 5 * time.Second}, {Priority: 2_000_000_000, Grace: 5 * time.Second}}
	}
	w.startKubelet()
	obedient := "trap 'exit 0' TERM; while :; do sleep 0.1; done"
	w.pod(shell("ordinary", obedient, "", "terminationGracePeriodSeconds: 30"))
	w.pod(shell("critical", obedient, "", "priority: 2000000000\nterminationGracePeriodSeconds: 30"))
	w.until("ordinary", "ready", isReady)
	w.until("critical", "ready", isReady)
	p.events <- true
	<-p.released
	first := w.until("ordinary", "ended", inPhase(corev1.PodFailed))
	last := w.until("critical", "ended", inPhase(corev1.PodFailed))
	if first.Status.Reason != "Terminated" || first.Status.Message != "Pod was terminated in response to imminent node shutdown." {
		t.Errorf("%s: %s", first.Status.Reason, first.Status.Message)
	}
	if c := condition(first, corev1.DisruptionTarget); c == nil || c.Reason != corev1.PodReasonTerminationByKubelet {
		t.Errorf("%+v", c)
	}
	a, b := status(first, "c").State.Terminated, status(last, "c").State.Terminated
	if a == nil || b == nil || b.FinishedAt.Time.Before(a.FinishedAt.Time) || a.ExitCode != 0 || b.ExitCode != 0 {
		t.Errorf("ordinary %+v, critical %+v", a, b)
	}
	w.pod(shell("late", "sleep 1000", "", ""))
	if late := w.until("late", "refused", inPhase(corev1.PodFailed)); late.Status.Reason != "NodeShutdown" {
		t.Errorf("%+v", late.Status)
	}
	w.eventually("the node is not ready", func() bool {
		for _, c := range w.node().Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionFalse && c.Message == "node is shutting down"
			}
		}
		return false
	})
}
