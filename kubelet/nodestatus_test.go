package kubelet

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
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

// oneNode is an API with a single node to read.
type oneNode struct {
	client.Interface
	node *corev1.Node
}

func (o oneNode) Do(context.Context, *client.Request) (*client.Result, error) {
	return &client.Result{Object: o.node}, nil
}

// TestReaches lets a volume be used whose topology the node shows only now.
func TestReaches(t *testing.T) {
	pv := &corev1.PersistentVolume{}
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"z1"}}},
	}}}}
	node := func(zone string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"zone": zone}}}
	}
	for _, c := range []struct {
		known, told string
		can         bool
	}{{"z1", "z2", true}, {"", "z1", true}, {"", "z2", false}} {
		k := &Kubelet{}
		k.cfg.NodeName, k.cfg.Client = "n", oneNode{node: node(c.told)}
		n := &nodeManager{k: k, node: node(c.known)}
		if err := n.reaches(t.Context(), pv); (err == nil) != c.can {
			t.Errorf("in %q, which is %q: %v", c.known, c.told, err)
		}
	}
}
