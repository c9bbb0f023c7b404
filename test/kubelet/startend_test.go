package kubelet_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/kubelet"
)

// gate is a runtime whose starts wait.
type gate struct {
	runtimeapi.RuntimeServiceClient
	begun chan string // gets the containers that are to start
	open  chan struct{}
}

func (g *gate) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest, opts ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	g.begun <- r.ContainerId
	<-g.open
	return g.RuntimeServiceClient.StartContainer(ctx, r, opts...)
}

// TestEndsWhileItStarts: a pod that is deleted while its container starts lets
// it start: one that was cut off would tell of a failure that is not its own.
func TestEndsWhileItStarts(t *testing.T) {
	w := newWorld(t)
	w.stop()
	g := &gate{begun: make(chan string, 10), open: make(chan struct{})}
	w.change = func(c *kubelet.Config) {
		g.RuntimeServiceClient = c.Runtime
		c.Runtime = g
	}
	w.startKubelet()
	w.pod(shell("p", "exit 7", "", "restartPolicy: Never"))
	<-g.begun
	w.delete("p", 30)
	// Once it starts another pod, the kubelet knows of the deletion before.
	w.pod(shell("after", waits, "", "terminationGracePeriodSeconds: 1"))
	<-g.begun
	close(g.open)
	p := w.until("p", "ended", func(p *corev1.Pod) bool { return p == nil || status(p, "c").State.Terminated != nil })
	if p == nil {
		t.Fatal("it went without saying how it ended")
	}
	if end := status(p, "c").State.Terminated; end.Reason != "Error" || end.StartedAt.IsZero() {
		t.Errorf("it ended as %+v", end)
	}
	w.until("p", "gone", gone)
	w.honest("after")
	w.delete("after", 1)
	w.until("after", "gone", gone)
	w.noLeaks()
}
