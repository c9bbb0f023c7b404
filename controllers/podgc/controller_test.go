package podgc

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestJudge(t *testing.T) {
	pod := func(node string, deleted bool) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node}}
		if deleted {
			p.DeletionTimestamp = &metav1.Time{}
		}
		return p
	}
	node := func(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
		for _, k := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k})
		}
		return n
	}
	for _, tc := range []struct {
		name string
		p    *corev1.Pod
		n    *corev1.Node
		want verdict
	}{
		{"waiting for a node", pod("", false), nil, keep},
		{"deleted before it had one", pod("", true), nil, drop},
		{"its node is gone", pod("n", false), nil, orphaned},
		{"running", pod("n", false), node(corev1.ConditionTrue), keep},
		{"ending", pod("n", true), node(corev1.ConditionTrue), keep},
		{"ending on a silent node", pod("n", true), node(corev1.ConditionUnknown), keep},
		{"ending on a node out of service", pod("n", true), node(corev1.ConditionUnknown, corev1.TaintNodeOutOfService), drop},
		{"running on a node out of service", pod("n", false), node(corev1.ConditionUnknown, corev1.TaintNodeOutOfService), keep},
		{"ending on a live node marked out of service", pod("n", true), node(corev1.ConditionTrue, corev1.TaintNodeOutOfService), keep},
	} {
		if got := judge(tc.p, tc.n); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
