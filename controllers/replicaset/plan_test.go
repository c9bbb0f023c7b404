package replicaset

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
)

var now = time.Unix(1e9, 0)

func set(replicas int32) *appsv1.ReplicaSet {
	s := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Generation: 3}}
	s.Spec.Replicas = &replicas
	s.Spec.Template.Labels = map[string]string{"app": "a", "full": "yes"}
	return s
}

// pod makes a running, ready pod on node n1 that has been so for an hour.
func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": "a", "full": "yes"}}}
	p.CreationTimestamp = metav1.NewTime(now.Add(-2 * time.Hour))
	p.Spec.NodeName, p.Status.Phase = "n1", corev1.PodRunning
	ready(p, now.Add(-time.Hour))
	for _, f := range change {
		f(p)
	}
	return p
}

func ready(p *corev1.Pod, since time.Time) {
	pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)})
}

func notReady(p *corev1.Pod) { p.Status.Conditions = nil }
func deleted(p *corev1.Pod)  { p.DeletionTimestamp = &metav1.Time{Time: now} }
func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed }
func pending(p *corev1.Pod)  { p.Status.Phase = corev1.PodPending; notReady(p) }
func unassigned(p *corev1.Pod) {
	p.Spec.NodeName = ""
	pending(p)
}

func none(*corev1.Pod) int { return 0 }

func TestMake(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    *appsv1.ReplicaSet
		pods   []*corev1.Pod
		create int
		delete []string
		status string // replicas labeled ready available terminating
	}{
		{"none yet", set(3), nil, 3, nil, "0 0 0 0 0"},
		{"enough", set(1), []*corev1.Pod{pod("a")}, 0, nil, "1 1 1 1 0"},
		{"failed and terminating are replaced", set(3), []*corev1.Pod{pod("a"), pod("b", failed), pod("c", deleted)}, 2, nil, "1 1 1 1 1"},
		{"a finished pod being deleted is not terminating", set(1), []*corev1.Pod{pod("a"), pod("b", failed, deleted)}, 0, nil, "1 1 1 1 0"},
		{"too many", set(1), []*corev1.Pod{pod("a"), pod("b", notReady)}, 0, []string{"b"}, "2 2 1 1 0"},
		{"all", set(0), []*corev1.Pod{pod("a"), pod("b")}, 0, []string{"a", "b"}, "2 2 2 2 0"},
		{"burst", set(2000), nil, burst, nil, "0 0 0 0 0"},
		{"lacks a template's label", set(1), []*corev1.Pod{pod("a", func(p *corev1.Pod) { delete(p.Labels, "full") })}, 0, nil, "1 0 1 1 0"},
		{"being deleted", func() *appsv1.ReplicaSet { s := set(3); s.DeletionTimestamp = &metav1.Time{Time: now}; return s }(), nil, 0, nil, "0 0 0 0 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := Make(tc.set, tc.pods, none, now)
			var del []string
			for _, p := range plan.Delete {
				del = append(del, p.Name)
			}
			st := plan.Status
			status := fmt.Sprint(st.Replicas, st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas, *st.TerminatingReplicas)
			if plan.Create != tc.create || !slices.Equal(del, tc.delete) || status != tc.status || st.ObservedGeneration != 3 {
				t.Errorf("create %d, delete %v, status %s; want %d, %v, %s", plan.Create, del, status, tc.create, tc.delete, tc.status)
			}
		})
	}
}

func TestMinReadySeconds(t *testing.T) {
	s := set(2)
	s.Spec.MinReadySeconds = 30
	young := pod("young")
	ready(young, now)
	young.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-10 * time.Second))
	plan := Make(s, []*corev1.Pod{pod("old"), young}, none, now)
	if plan.Status.ReadyReplicas != 2 || plan.Status.AvailableReplicas != 1 || plan.Again != 20*time.Second {
		t.Errorf("ready %d, available %d, again %v", plan.Status.ReadyReplicas, plan.Status.AvailableReplicas, plan.Again)
	}
}

// The one that should go first stands first in each line.
func TestDeletionOrder(t *testing.T) {
	cost := func(n string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: n} }
	}
	for _, tc := range []struct {
		name string
		pods []*corev1.Pod
	}{
		{"unassigned, pending, unknown, not ready, ready", []*corev1.Pod{
			pod("e", unassigned), pod("d", pending), pod("c", func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }), pod("b", notReady), pod("a"),
		}},
		{"cost", []*corev1.Pod{pod("z", cost("-5")), pod("b"), pod("a", cost("7"))}},
		{"crowded node", []*corev1.Pod{pod("z", func(p *corev1.Pod) { p.Spec.NodeName = "crowded" }), pod("a")}},
		{"shorter ready", []*corev1.Pod{pod("z", func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute)) }), pod("a")}},
		{"ages of one magnitude: by UID", []*corev1.Pod{pod("a"), pod("z", func(p *corev1.Pod) {
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-61 * time.Minute))
		})}},
		{"restarts", []*corev1.Pod{pod("z", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 2}} }), pod("a")}},
		{"newer", []*corev1.Pod{pod("z", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) }), pod("a")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			crowd := func(p *corev1.Pod) int {
				if p.Spec.NodeName == "crowded" {
					return 2
				}
				return 1
			}
			less := pods.DeletionOrder(crowd, now)
			for i, a := range tc.pods {
				for j, b := range tc.pods {
					if c := less(a, b); (c < 0) != (i < j) || (c > 0) != (i > j) {
						t.Errorf("%s against %s: %d", a.Name, b.Name, c)
					}
				}
			}
		})
	}
}

func TestWithFailure(t *testing.T) {
	at := metav1.NewTime(now)
	got := WithFailure(nil, true, errors.New("quota"), at)
	if len(got) != 1 || got[0].Reason != "FailedCreate" || got[0].Message != "quota" || got[0].Status != corev1.ConditionTrue {
		t.Fatalf("%+v", got)
	}
	if again := WithFailure(got, true, errors.New("quota exceeded by another number"), metav1.Now()); again[0] != got[0] {
		t.Errorf("a retry changed the condition: %+v", again)
	}
	if left := WithFailure(got, false, nil, at); len(left) != 0 {
		t.Errorf("%+v", left)
	}
	if got := WithFailure(nil, false, errors.New("x"), at); got[0].Reason != "FailedDelete" {
		t.Errorf("%+v", got)
	}
	if s := set(1); ptr.Deref(s.Spec.Replicas, 0) != 1 {
		t.Error("the set was changed")
	}
}
