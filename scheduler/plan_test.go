package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func node(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
			corev1.ResourcePods: resource.MustParse("10"), corev1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func taint(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func nodeLabel(k, v string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels[k] = v } }

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Generation: 1},
		Spec:       corev1.PodSpec{SchedulerName: "default-scheduler", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func requests(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
		}
	}
}

func hostPortOf(port int32, ip string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, HostIP: ip, Protocol: corev1.ProtocolTCP}}
	}
}

func snapshot(nodes []*corev1.Node, bound map[string][]*corev1.Pod) *Snapshot {
	s := NewSnapshot()
	for _, n := range nodes {
		s.SetNode(n)
	}
	for name, pods := range bound {
		for _, p := range pods {
			s.SetPod(NewPod(p), name)
		}
	}
	return s
}

func place(s *Snapshot, p *corev1.Pod) (string, string) {
	prepared, profile := NewPod(p), DefaultProfile()
	n, d := newClasses(8).of(prepared, profile, s).place(prepared, profile, s, false)
	if n == nil {
		return "", d.Message()
	}
	return n.Name, ""
}

func TestWhereAPodGoes(t *testing.T) {
	required := func(key string, values ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}},
			}}}
		}
	}
	preferred := func(key, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}}},
			}}}}
		}
	}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	tolerate := func(key string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
		}
	}
	for _, c := range []struct {
		name  string
		nodes []*corev1.Node
		bound map[string][]*corev1.Pod
		pod   *corev1.Pod
		node  string // "" where none takes it
		why   string
	}{
		{"no nodes", nil, nil, pod("p"), "", "no nodes available to schedule pods"},
		{"fits", []*corev1.Node{node("a")}, nil, pod("p", requests("1", "1Gi")), "a", ""},
		{"cpu and memory lacking", []*corev1.Node{node("a")}, nil, pod("p", requests("5", "9Gi")), "", "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."},
		{"what is bound counts", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", requests("3500m", "1Gi"))}}, pod("p", requests("1", "1Gi")), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"a pod without requests fits a full node", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", requests("4", "8Gi"))}}, pod("p"), "a", ""},
		{"too many pods", []*corev1.Node{node("a", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1") })}, map[string][]*corev1.Pod{"a": {pod("x")}}, pod("p"), "", "0/1 nodes are available: 1 Too many pods."},
		{"extended resource", []*corev1.Node{node("a")}, nil, pod("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		}), "", "0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{"the freer node", []*corev1.Node{node("a"), node("b")}, map[string][]*corev1.Pod{"a": {pod("x", requests("2", "4Gi"))}}, pod("p", requests("1", "1Gi")), "b", ""},
		{"node selector", []*corev1.Node{node("a"), node("b", nodeLabel("disk", "ssd"))}, nil, pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), "b", ""},
		{"required affinity", []*corev1.Node{node("a"), node("b", nodeLabel("disk", "ssd"))}, nil, pod("p", required("disk", "nvme")), "", "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."},
		{"preferred affinity wins over free resources", []*corev1.Node{node("a"), node("b", nodeLabel("disk", "ssd"))}, map[string][]*corev1.Pod{"b": {pod("x", requests("1", "1Gi"))}}, pod("p", preferred("disk", "ssd")), "b", ""},
		{"taint", []*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectNoSchedule))}, nil, pod("p"), "", "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."},
		{"tolerated taint", []*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectNoExecute))}, nil, pod("p", tolerate("k")), "a", ""},
		{"preferred taint is avoided", []*corev1.Node{node("a", taint("k", "v", corev1.TaintEffectPreferNoSchedule)), node("b")}, map[string][]*corev1.Pod{"b": {pod("x", requests("1", "1Gi"))}}, pod("p"), "b", ""},
		{"cordoned", []*corev1.Node{node("a", cordoned)}, nil, pod("p"), "", "0/1 nodes are available: 1 node(s) were unschedulable."},
		{"cordoned but tolerated", []*corev1.Node{node("a", cordoned)}, nil, pod("p", tolerate(corev1.TaintNodeUnschedulable)), "a", ""},
		{"host port taken", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", hostPortOf(80, ""))}}, pod("p", hostPortOf(80, "10.0.0.1")), "", "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port on another address", []*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", hostPortOf(80, "10.0.0.2"))}}, pod("p", hostPortOf(80, "10.0.0.1")), "a", ""},
		{"each node its own reason", []*corev1.Node{node("a", cordoned), node("b", taint("k", "", corev1.TaintEffectNoSchedule)), node("c")}, nil, pod("p", requests("5", "1Gi")), "", "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: }, 1 node(s) were unschedulable."},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why := place(snapshot(c.nodes, c.bound), c.pod)
			if got != c.node || why != c.why {
				t.Errorf("placed on %q (%s), want %q (%s)", got, why, c.node, c.why)
			}
		})
	}
}

// TestSharedResultsAreFresh places pods of one shape one after the other: the
// class's cached results must follow every change of the snapshot.
func TestSharedResultsAreFresh(t *testing.T) {
	s := snapshot([]*corev1.Node{node("a"), node("b")}, nil)
	classes := newClasses(8)
	next := func(i int) string {
		p := NewPod(pod(fmt.Sprint("p", i), requests("1500m", "1Gi")))
		profile := DefaultProfile()
		n, _ := classes.of(p, profile, s).place(p, profile, s, false)
		if n == nil {
			return ""
		}
		s.SetPod(p, n.Name)
		return n.Name
	}
	count := map[string]int{}
	for i := range 4 {
		count[next(i)]++
	}
	if count["a"] != 2 || count["b"] != 2 {
		t.Fatalf("four pods were spread as %v, want two on each node", count)
	}
	if got := next(4); got != "" {
		t.Fatalf("a fifth pod was placed on full node %s", got)
	}
	s.RemovePod("p0")
	if got := next(5); got == "" {
		t.Fatal("no room was seen after a pod went")
	}
	s.SetNode(node("c"))
	if got := next(6); got != "c" {
		t.Fatalf("placed on %q, want the new node c", got)
	}
	s.RemoveNode("a")
	if got := next(7); got != "c" {
		t.Fatalf("after node a went: placed on %q, want c", got)
	}
}

func TestPodsOfANodeThatComesBackStillCount(t *testing.T) {
	s := snapshot([]*corev1.Node{node("a")}, map[string][]*corev1.Pod{"a": {pod("x", requests("4", "1Gi"))}})
	s.RemoveNode("a")
	s.SetNode(node("a"))
	if got, _ := place(s, pod("p", requests("1", "1Gi"))); got != "" {
		t.Fatal("the pods of a node were forgotten while it was gone")
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			s := NewSnapshot()
			for i := range nodes {
				s.SetNode(node(fmt.Sprintf("n%d", i), func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("100000") }))
			}
			classes := newClasses(8)
			profile := DefaultProfile()
			template := pod("p", requests("1m", "1Mi"))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				obj := *template
				obj.UID = types.UID(fmt.Sprint(i))
				p := NewPod(&obj)
				n, _ := classes.of(p, profile, s).place(p, profile, s, false)
				if n == nil {
					b.Fatal("full")
				}
				s.SetPod(p, n.Name)
			}
		})
	}
}
