package deployment

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/controllers/replicaset"
)

// world is a cluster reduced to a Deployment, its sets and their pods, in
// which the plans of both controllers are carried out in random order.
type world struct {
	t    *testing.T
	rnd  *rand.Rand
	now  time.Time
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	pods []*corev1.Pod
	ids  int
	bad  map[string]bool // images that never become ready
}

func newWorld(t *testing.T, seed uint64, replicas int32, surge, unavailable intstr.IntOrString) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0), bad: map[string]bool{}}
	w.d = &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "web", UID: "d", Generation: 1}}
	w.d.Spec = appsv1.DeploymentSpec{
		Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](2),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
	}
	w.d.Spec.Template.Labels = map[string]string{"app": "web"}
	w.setImage("v1")
	return w
}

func (w *world) setImage(image string) {
	w.d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	w.d.Generation++
}

func (w *world) stepDeployment() {
	plan := Make(w.d, w.sets, w.podsLeft, w.now)
	if plan.Create != nil {
		w.ids++
		plan.Create.UID, plan.Create.Generation = types.UID(fmt.Sprint("rs", w.ids)), 1
		plan.Create.CreationTimestamp = metav1.NewTime(w.now)
		w.sets = append(w.sets, plan.Create)
	}
	for _, u := range plan.Update {
		for i, s := range w.sets {
			if s.Name == u.Set.Name {
				u.Set.Status = s.Status
				u.Set.Generation++
				w.sets[i] = u.Set
			}
		}
	}
	for _, gone := range plan.Delete {
		w.removeSet(gone)
	}
	if plan.Revision != "" {
		w.d.Annotations = map[string]string{revisionAnnotation: plan.Revision}
	}
	w.d.Status = plan.Status
}

func (w *world) removeSet(gone *appsv1.ReplicaSet) {
	for i, s := range w.sets {
		if s.Name == gone.Name {
			w.sets = append(w.sets[:i:i], w.sets[i+1:]...)
			return
		}
	}
}

func (w *world) podsOf(s *appsv1.ReplicaSet) (out []*corev1.Pod) {
	for _, p := range w.pods {
		if p.OwnerReferences[0].UID == s.UID {
			out = append(out, p)
		}
	}
	return out
}

func (w *world) podsLeft(sets []*appsv1.ReplicaSet) bool {
	for _, s := range sets {
		if len(w.podsOf(s)) > 0 {
			return true
		}
	}
	return false
}

func (w *world) stepSet(s *appsv1.ReplicaSet) {
	plan := replicaset.Make(s, w.podsOf(s), func(*corev1.Pod) int { return 0 }, w.now)
	for range plan.Create {
		w.ids++
		p := pods.FromTemplate(&s.Spec.Template, "n", s.Name, &metav1.OwnerReference{UID: s.UID, Controller: ptr.To(true)})
		p.Name, p.UID = fmt.Sprint("pod", w.ids), types.UID(fmt.Sprint(w.ids))
		p.CreationTimestamp = metav1.NewTime(w.now)
		w.pods = append(w.pods, p)
	}
	for _, p := range plan.Delete {
		p.DeletionTimestamp = &metav1.Time{Time: w.now}
	}
	s.Status = plan.Status
}

func (w *world) stepPod() {
	if len(w.pods) == 0 {
		return
	}
	i := w.rnd.IntN(len(w.pods))
	p := w.pods[i]
	switch {
	case p.DeletionTimestamp != nil:
		w.pods = append(w.pods[:i:i], w.pods[i+1:]...)
	case !pods.Ready(p) && !w.bad[p.Spec.Containers[0].Image]:
		p.Status.Phase = corev1.PodRunning
		pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.now)})
	}
}

func (w *world) step() {
	w.now = w.now.Add(time.Second)
	switch n := w.rnd.IntN(4); {
	case n == 0:
		w.stepDeployment()
	case n == 1 && len(w.sets) > 0:
		w.stepSet(w.sets[w.rnd.IntN(len(w.sets))])
	default:
		w.stepPod()
	}
}

// count returns the active pods and how many of them are available.
func (w *world) count() (active, available int32) {
	for _, p := range w.pods {
		if pods.Active(p) {
			active++
			if pods.Ready(p) {
				available++
			}
		}
	}
	return
}

func (w *world) settled() bool {
	for _, c := range w.d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == reasonSetAvailable {
			return w.d.Status.ObservedGeneration == w.d.Generation && w.d.Status.UpdatedReplicas == *w.d.Spec.Replicas
		}
	}
	return false
}

func (w *world) settle(check func()) {
	w.t.Helper()
	for range 20000 {
		w.step()
		check()
		if w.settled() {
			return
		}
	}
	w.t.Fatalf("not settled: %+v", w.d.Status)
}

// A rolling update never has more pods than replicas plus maxSurge nor fewer
// available ones than replicas minus maxUnavailable, in whatever order the
// controllers and kubelets act, and it always ends.
func TestRollingUpdateKeepsItsBounds(t *testing.T) {
	for _, tc := range []struct {
		replicas           int32
		surge, unavailable intstr.IntOrString
	}{
		{3, intstr.FromString("25%"), intstr.FromString("25%")},
		{1, intstr.FromString("25%"), intstr.FromString("25%")},
		{10, intstr.FromInt32(0), intstr.FromInt32(3)},
		{10, intstr.FromInt32(4), intstr.FromInt32(0)},
		{7, intstr.FromString("100%"), intstr.FromString("50%")},
		{5, intstr.FromInt32(0), intstr.FromInt32(0)},
	} {
		for seed := range uint64(20) {
			name := fmt.Sprintf("%d,%s,%s/%d", tc.replicas, tc.surge.String(), tc.unavailable.String(), seed)
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, seed, tc.replicas, tc.surge, tc.unavailable)
				surge, unavailable := bounds(w.d)
				most := func() {
					if active, _ := w.count(); active > tc.replicas+surge {
						t.Fatalf("%d pods, more than %d+%d", active, tc.replicas, surge)
					}
				}
				w.settle(most)
				both := func() {
					most()
					if _, available := w.count(); available < tc.replicas-unavailable {
						t.Fatalf("%d available, fewer than %d-%d", available, tc.replicas, unavailable)
					}
				}
				w.setImage("v2")
				w.settle(both)
				// A template that never works, corrected half way through.
				w.bad["v3"] = true
				w.setImage("v3")
				for range 200 {
					w.step()
					both()
				}
				w.setImage("v4")
				w.settle(both)
				w.setImage("v1") // back to the first
				w.settle(both)
				for range 200 {
					w.step()
					both()
				}
				if n := len(w.sets); n > 3 {
					t.Errorf("%d sets are left, want the new one and 2 old ones at most", n)
				}
			})
		}
	}
}

// Recreate never runs two templates at once.
func TestRecreateNeverMixes(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, 4, intstr.FromInt32(0), intstr.FromInt32(0))
		w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		check := func() {
			images := map[string]bool{}
			for _, p := range w.pods {
				images[p.Spec.Containers[0].Image] = true
			}
			if len(images) > 1 {
				t.Fatalf("pods of %v at once", images)
			}
		}
		w.settle(check)
		w.setImage("v2")
		w.settle(check)
		w.setImage("v1")
		w.settle(check)
	}
}
