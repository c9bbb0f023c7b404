package actions

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A binding leaves one condition of being scheduled, of no generation, and the
// time since when it is true is kept. No node is nominated any more.
func TestBound(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	second, before := metav1.NewTime(now.Truncate(time.Second)), metav1.NewTime(now.Add(-time.Hour))
	for name, tt := range map[string]struct {
		have  []corev1.PodCondition
		since metav1.Time
	}{
		"new":   {nil, second},
		"false": {[]corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", ObservedGeneration: 2, LastTransitionTime: before}}, second},
		"true":  {[]corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: before}}, before},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 3}, Status: corev1.PodStatus{Conditions: tt.have, NominatedNodeName: "m"}}
		got := bound(pod, &corev1.Binding{Target: corev1.ObjectReference{Name: "n"}}, now)
		want := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: tt.since}
		if c := got.Status.Conditions; got.Spec.NodeName != "n" || got.Status.NominatedNodeName != "" || len(c) != 1 || c[0] != want {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
