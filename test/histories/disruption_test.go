package histories_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/test/world"
)

// TestBudgetHolds has many evict at once from a set with a budget, whose
// controller lives short lives and sees everything late: there are always as
// many pods ready as the budget wants, once there were.
func TestBudgetHolds(t *testing.T) {
	world.Histories(t, 15, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		replicas := 3 + rnd.IntN(5)
		out := 1 + rnd.IntN(2)
		least, began := replicas-out, false
		evicted := 0
		w.Judge(func(c world.Change) {
			if c.Resource != "pods" {
				return
			}
			if c.New != nil && c.New.GetDeletionTimestamp() != nil && c.Old.GetDeletionTimestamp() == nil {
				evicted++
			}
			ready := 0
			for _, p := range world.InJudge[*corev1.Pod](w, "pods") {
				if pods.Active(p) && pods.Ready(p) {
					ready++
				}
			}
			began = began || ready >= replicas
			if began && ready < least {
				w.Failf("%d pods are ready, fewer than %d", ready, least)
			}
		})
		w.Kubelets(4, service)
		// A stateful set's pods come back under their old names.
		selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
		if rnd.IntN(2) == 0 {
			_, err := client.StatefulSets.In(w.Root, world.Namespace).Create(w.T.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "db"}, Spec: appsv1.StatefulSetSpec{
				Replicas: ptr.To(int32(replicas)), Selector: selector, Template: template("db", "v0"), PodManagementPolicy: appsv1.ParallelPodManagement}})
			w.Must(err)
		} else {
			_, err := client.ReplicaSets.In(w.Root, world.Namespace).Create(w.T.Context(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "db"}, Spec: appsv1.ReplicaSetSpec{
				Replicas: ptr.To(int32(replicas)), Selector: selector, Template: template("db", "v0")}})
			w.Must(err)
		}
		budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "db"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector}}
		if rnd.IntN(2) == 0 {
			budget.Spec.MaxUnavailable = ptr.To(intstr.FromInt(out))
		} else {
			budget.Spec.MinAvailable = ptr.To(intstr.FromInt(least))
		}
		_, err := client.PodDisruptionBudgets.In(w.Root, world.Namespace).Create(w.T.Context(), budget)
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(30*time.Second, "disruption-controller", "replicaset-controller", "statefulset-controller")
		time.Sleep(time.Minute)
		var evicting sync.WaitGroup
		for i := range 4 {
			evicting.Go(func() {
				rnd := rand.New(rand.NewPCG(w.Seed, 10+uint64(i)))
				for range 60 {
					time.Sleep(seconds(rnd, 8))
					all := world.Objects[*corev1.Pod](w, "pods")
					p := all[rnd.IntN(len(all))]
					if !pods.Ready(p) {
						continue // one that is not ready may go beyond the budget, which is another matter
					}
					_, _ = client.Pods.In(w.Door("evictor"), world.Namespace).CreateSub(w.T.Context(), p.Name, "eviction",
						&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: p.Name}})
				}
			})
		}
		evicting.Wait()
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		if evicted < 5 {
			w.T.Errorf("seed %d: %d evictions only", w.Seed, evicted)
		}
		b, err := client.PodDisruptionBudgets.In(w.Root, world.Namespace).Get(w.T.Context(), "db")
		w.Must(err)
		if int(b.Status.DisruptionsAllowed) != out || len(b.Status.DisruptedPods) != 0 || b.Status.ObservedGeneration != b.Generation {
			w.T.Errorf("seed %d: at the end %+v, want %d disruptions allowed", w.Seed, b.Status, out)
		}
	})
}
