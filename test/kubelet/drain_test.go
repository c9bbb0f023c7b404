package kubelet_test

import (
	"context"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/kubelet"
)

// TestDrain: a ready pod that is deleted runs on until it is drained.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.stop()
	begun, release := make(chan string), make(chan struct{})
	var drained atomic.Bool
	w.change = func(c *kubelet.Config) {
		c.Drain = func(ctx context.Context, pod *corev1.Pod) {
			begun <- pod.Name
			<-release
			drained.Store(ctx.Err() == nil)
		}
	}
	w.startKubelet()
	w.pod(shell("p", `trap 'echo term; exit' TERM; while true; do sleep 0.1; done`, "", ""))
	p := w.until("p", "ready", isReady)
	w.delete("p", 30)
	if name := <-begun; name != "p" {
		t.Errorf("%s is drained", name)
	}
	if log := w.podLog(p, "c", 0); log != "" {
		t.Errorf("log before the end of the drain: %q", log)
	}
	close(release)
	w.until("p", "gone", gone)
	if !drained.Load() {
		t.Error("the drain was given up")
	}
}
