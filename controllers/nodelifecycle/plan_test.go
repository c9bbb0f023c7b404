package nodelifecycle

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = metav1.NewTime(time.Unix(1e9, 0))

func node(change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, f := range change {
		f(n)
	}
	return n
}

func readyIs(s corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Status.Conditions[0].Status = s }
}

func with(key string, e corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: e}) }
}

func pressure(t corev1.NodeConditionType) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue})
	}
}

func TestTaints(t *testing.T) {
	const ns, ne = corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute
	for _, tc := range []struct {
		name   string
		n      *corev1.Node
		evict  bool
		want   []string // nil: no change
		wanted bool
	}{
		{"healthy", node(), true, nil, false},
		{"not ready", node(readyIs(corev1.ConditionFalse)), true, []string{"not-ready:NoSchedule", "not-ready:NoExecute"}, false},
		{"unreachable", node(readyIs(corev1.ConditionUnknown)), true, []string{"unreachable:NoSchedule", "unreachable:NoExecute"}, false},
		{"not now", node(readyIs(corev1.ConditionUnknown)), false, []string{"unreachable:NoSchedule"}, true},
		{"from one to the other", node(readyIs(corev1.ConditionUnknown), with(corev1.TaintNodeNotReady, ns), with(corev1.TaintNodeNotReady, ne)), false,
			[]string{"unreachable:NoSchedule", "unreachable:NoExecute"}, false},
		{"back", node(with(corev1.TaintNodeUnreachable, ns), with(corev1.TaintNodeUnreachable, ne), with("mine", ns)), true, []string{"mine:NoSchedule"}, false},
		{"settled", node(readyIs(corev1.ConditionFalse), with(corev1.TaintNodeNotReady, ns), with(corev1.TaintNodeNotReady, ne)), true, nil, false},
		{"pressures", node(pressure(corev1.NodeMemoryPressure), pressure(corev1.NodeDiskPressure), pressure(corev1.NodePIDPressure), pressure(corev1.NodeNetworkUnavailable)), true,
			[]string{"memory-pressure:NoSchedule", "disk-pressure:NoSchedule", "network-unavailable:NoSchedule", "pid-pressure:NoSchedule"}, false},
		{"cordoned", node(func(n *corev1.Node) { n.Spec.Unschedulable = true }), true, []string{"unschedulable:NoSchedule"}, false},
		{"uncordoned", node(with(corev1.TaintNodeUnschedulable, ns)), true, []string{}, false},
		{"someone's NoExecute of our key stays another effect", node(with(corev1.TaintNodeMemoryPressure, ne)), true, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, wanted := taints(tc.n, tc.evict, now)
			var got []string
			if out != nil {
				got = []string{}
			}
			for _, x := range out {
				key := x.Key
				if len(key) > 19 && key[:19] == "node.kubernetes.io/" {
					key = key[19:]
				}
				got = append(got, key+":"+string(x.Effect))
			}
			if !slices.Equal(got, tc.want) || (got == nil) != (tc.want == nil) || wanted != tc.wanted {
				t.Errorf("got %v %v, want %v %v", got, wanted, tc.want, tc.wanted)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	s := Defaults()
	if d := s.silentIn(Health{Seen: now.Time, Heard: true}, now.Add(20*time.Second)); d != 30*time.Second {
		t.Errorf("%v", d)
	}
	if d := s.silentIn(Health{Seen: now.Time}, now.Add(20*time.Second)); d != 40*time.Second {
		t.Errorf("never heard: %v", d)
	}
	n := node()
	out := unknownConditions(n, now)
	if len(out) != 4 || out[0].Reason != "NodeStatusUnknown" || out[0].Message != "Kubelet stopped posting node status." ||
		out[1].Reason != "NodeStatusNeverUpdated" || !out[0].LastTransitionTime.Equal(&now) {
		t.Errorf("%+v", out)
	}
	if n.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Error("the node was changed")
	}
	n.Status.Conditions = out
	if again := unknownConditions(n, now); again != nil {
		t.Errorf("said twice: %+v", again)
	}
}

func TestInterval(t *testing.T) {
	s := Defaults()
	for _, tc := range []struct {
		name  string
		zones map[string]zone
		want  time.Duration
	}{
		{"one node down", map[string]zone{"z": {9, 1}}, s.EvictionInterval},
		{"all nodes down", map[string]zone{"z": {0, 10}}, 0},
		{"the only node down", map[string]zone{"z": {0, 1}}, 0},
		{"a zone down, another up", map[string]zone{"z": {0, 10}, "y": {5, 0}}, s.EvictionInterval},
		{"most of a small zone", map[string]zone{"z": {3, 7}}, 0},
		{"most of a large zone", map[string]zone{"z": {30, 70}}, s.SlowInterval},
		{"two of three", map[string]zone{"z": {1, 2}}, s.EvictionInterval},
	} {
		if got := s.interval("z", tc.zones); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
