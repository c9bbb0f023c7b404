package scheduler

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func prio(v int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &v } }

func since(minutes int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = &metav1.Time{Time: time.Date(2026, 1, 1, 0, minutes, 0, 0, time.UTC)}
	}
}

func budget(allowed int32, kv ...string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{kv[0]: kv[1]}}},
	}
	b.Status.DisruptionsAllowed = allowed
	return b
}

func TestPreemption(t *testing.T) {
	big := requests("3", "1Gi")
	small := requests("1", "1Gi")
	web := labelled("app", "web")
	for _, c := range []struct {
		name    string
		bound   map[string][]*corev1.Pod
		pod     *corev1.Pod
		budgets []*policyv1.PodDisruptionBudget
		want    string // node: victims
		why     string
	}{
		{"a lower pod goes", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1))}, "b": {pod("y", big, prio(10))}}, pod("p", big, prio(10)), nil, "a: x", ""},
		{"equals stay", map[string][]*corev1.Pod{"a": {pod("x", big, prio(10))}, "b": {pod("y", big, prio(10))}}, pod("p", big, prio(10)), nil, "",
			"preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		{"no more than needed", map[string][]*corev1.Pod{"a": {pod("x1", small, prio(1)), pod("x2", small, prio(2)), pod("x3", small, prio(3)), pod("x4", small, prio(3))}, "b": {pod("y", big, prio(10))}},
			pod("p", requests("2", "1Gi"), prio(10)), nil, "a: x1 x2", ""},
		{"the less important victims", map[string][]*corev1.Pod{"a": {pod("x", big, prio(5))}, "b": {pod("y", big, prio(1))}}, pod("p", big, prio(10)), nil, "b: y", ""},
		{"the fewer victims", map[string][]*corev1.Pod{"a": {pod("x1", requests("2", "1Gi"), prio(1)), pod("x2", requests("2", "1Gi"), prio(1))}, "b": {pod("y", big, prio(1))}}, pod("p", big, prio(10)), nil, "b: y", ""},
		{"the younger victim", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1), since(1))}, "b": {pod("y", big, prio(1), since(9))}}, pod("p", big, prio(10)), nil, "b: y", ""},
		{"budgets are spared", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1), web)}, "b": {pod("y", big, prio(5))}}, pod("p", big, prio(10)), []*policyv1.PodDisruptionBudget{budget(0, "app", "web")}, "b: y", ""},
		{"unless there is no other way", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1), web)}, "b": {pod("y", big, prio(20))}}, pod("p", big, prio(10)), []*policyv1.PodDisruptionBudget{budget(0, "app", "web")}, "a: x", ""},
		{"who does not want it", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1))}, "b": {pod("y", big, prio(1))}}, pod("p", big, prio(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }), nil, "", "not eligible due to preemptionPolicy=Never."},
		{"where it would not help", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1))}, "b": {pod("y", big, prio(1))}}, pod("p", requests("9", "1Gi"), prio(10)), nil, "",
			"preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{"who wants to be apart", map[string][]*corev1.Pod{"a": {pod("x", web, prio(1))}, "b": {pod("y", web, prio(10))}}, pod("p", web, prio(10), apart(affinityTerm(corev1.LabelHostname, "app", "web"))), nil, "a: x", ""},
		{"one who is leaving is waited for", map[string][]*corev1.Pod{"a": {pod("x", big, prio(1), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} })}, "b": {pod("y", big, prio(1))}},
			pod("p", big, prio(10), func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" }), nil, "", "not eligible due to a terminating pod on the nominated node."},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := snapshot([]*corev1.Node{node("a"), node("b")}, c.bound)
			p, profile := NewPod(c.pod), DefaultProfile()
			_, d := newClasses(8).of(p, profile, s).place(p, profile, s, true)
			if d == nil {
				t.Fatal("the pod fits without preemption")
			}
			before := fmt.Sprint(s.where)
			plan, why := preempt(p, d, profile, s, c.budgets, map[types.UID]string{})
			got := ""
			if plan != nil {
				var names []string
				for _, v := range plan.Victims {
					names = append(names, v.Name)
				}
				sort.Strings(names)
				got = plan.Node + ": " + strings.Join(names, " ")
			}
			if got != c.want || why != c.why {
				t.Errorf("plan %q (%s), want %q (%s)", got, why, c.want, c.why)
			}
			if after := fmt.Sprint(s.where); after != before {
				t.Errorf("planning changed the snapshot from %s to %s", before, after)
			}
		})
	}
}
