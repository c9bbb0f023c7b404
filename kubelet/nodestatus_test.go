package kubelet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestAdvertised gives away what someone advertises on the node, for as long as
// it is advertised, and leaves the devices of plugins as their health has them.
func TestAdvertised(t *testing.T) {
	list := func(of ...string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for i := 0; i < len(of); i += 2 {
			out[corev1.ResourceName(of[i])] = resource.MustParse(of[i+1])
		}
		return out
	}
	f := &statusFacts{
		cfg: &Config{MaxPods: 10}, machine: machine{CPUs: 2, Memory: 1 << 30}, disk: 1 << 30,
		devices: list("example.com/gpu", "4"), healthy: list("example.com/gpu", "3"),
	}
	node := &corev1.Node{Status: corev1.NodeStatus{
		Capacity:    list("example.com/dongle", "7"),
		Allocatable: list("example.com/dongle", "5", "example.com/former", "1"),
	}}
	is := func(when, name, want string) {
		t.Helper()
		q, ok := node.Status.Allocatable[corev1.ResourceName(name)]
		if got := q.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s of %s can be given away, not %q", when, got, name, want)
		}
	}
	setNodeStatus(node, f)
	is("advertised", "example.com/dongle", "7")
	is("advertised", "example.com/former", "")
	is("advertised", "example.com/gpu", "3")
	is("advertised", "pods", "10")
	delete(node.Status.Capacity, "example.com/dongle")
	setNodeStatus(node, f)
	is("withdrawn", "example.com/dongle", "")
	is("withdrawn", "example.com/gpu", "3")
}
