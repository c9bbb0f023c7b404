package pods

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// running is a pod that has been ready for a minute and is two minutes old.
func running(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(noon.Add(-2 * time.Minute))}}
	p.Spec.NodeName = "n"
	p.Status.Phase = corev1.PodRunning
	ready(p, corev1.ConditionTrue, time.Minute)
	return p
}

func ready(p *corev1.Pod, s corev1.ConditionStatus, ago time.Duration) {
	p.Status.Conditions = nil
	SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: s, LastTransitionTime: metav1.NewTime(noon.Add(-ago))})
}

// Each pod of the order is to go before the next because of one property, and
// all that comes later in the comparison says the opposite.
func TestDeletionOrder(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	made := map[string]func(p *corev1.Pod){
		"1-unassigned": func(p *corev1.Pod) { p.Spec.NodeName = "" },
		"2-pending":    func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"3-unknown":    func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown },
		"4-unready":    func(p *corev1.Pod) { ready(p, corev1.ConditionFalse, time.Hour) },
		"5-cheap":      func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} },
		"6-crowded":    func(p *corev1.Pod) { p.Spec.NodeName = "crowded" },
		"7-recent":     func(p *corev1.Pod) { ready(p, corev1.ConditionTrue, time.Second) },
		"8-restarted":  func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 4}} },
		"9-restarted-sidecar": func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always}, {Name: "once"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "s", RestartCount: 3}, {Name: "once", RestartCount: 9}}
		},
		"a-young": func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(noon.Add(-time.Second)) },
		"b":       func(*corev1.Pod) {},
		"c-same-step-but-greater-uid": func(p *corev1.Pod) {
			ready(p, corev1.ConditionTrue, 61*time.Second)
		},
		"d-dear": func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "5"} },
		"e-dearest": func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.PodDeletionCost: "2147483647"}
		},
	}
	var list []*corev1.Pod
	for name, change := range made {
		p := running(name)
		change(p)
		list = append(list, p)
	}
	siblings := func(p *corev1.Pod) int { return len(p.Spec.NodeName) }
	slices.SortFunc(list, DeletionOrder(siblings, noon))
	var got []string
	for _, p := range list {
		got = append(got, p.Name)
	}
	if !slices.IsSorted(got) {
		t.Errorf("the order is\n%s", strings.Join(got, "\n"))
	}
}

func TestFacts(t *testing.T) {
	yes := true
	for name, change := range map[string]func(p *corev1.Pod){
		"owner": func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "x", UID: "u", Controller: &yes}}
		},
		"node":     func(p *corev1.Pod) { p.Spec.NodeName = "other" },
		"phase":    func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
		"deleting": func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} },
		"ready":    func(p *corev1.Pod) { ready(p, corev1.ConditionFalse, time.Minute) },
		"since":    func(p *corev1.Pod) { ready(p, corev1.ConditionTrue, 2*time.Minute) },
	} {
		p := running("a")
		if change(p); FactsOf(p) == FactsOf(running("a")) {
			t.Errorf("a change of %s is not seen", name)
		}
	}
	p := running("a")
	p.ResourceVersion, p.Status.PodIP = "7", "10.0.0.1"
	if FactsOf(p) != FactsOf(running("a")) {
		t.Error("a change that no owner decides by is seen")
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		status corev1.ConditionStatus
		ago    time.Duration
		min    int32
		ok     bool
		wait   time.Duration
	}{
		{corev1.ConditionFalse, time.Hour, 0, false, 0},
		{corev1.ConditionTrue, 0, 0, true, 0},
		{corev1.ConditionTrue, 4 * time.Second, 10, false, 6 * time.Second},
		{corev1.ConditionTrue, 10 * time.Second, 10, true, 0},
		{corev1.ConditionTrue, -time.Second, 10, false, 11 * time.Second}, // a clock that lags
	} {
		p := running("a")
		ready(p, c.status, c.ago)
		if ok, wait := Available(p, c.min, noon); ok != c.ok || wait != c.wait {
			t.Errorf("%+v: %v, %v", c, ok, wait)
		}
	}
}
