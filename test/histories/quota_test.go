package histories_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/world"
)

// TestQuotaIsNeverExceeded has many make and delete at once what a quota
// counts, while the quota's controller lives short lives and sees everything
// late: there is never more than the limit, and what is used is right in the
// end.
func TestQuotaIsNeverExceeded(t *testing.T) {
	world.Histories(t, 10, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		most := 3 + rnd.IntN(4)
		made := 0
		w.Judge(func(c world.Change) {
			if c.Resource != "configmaps" {
				return
			}
			if c.Old == nil {
				made++
			}
			if n := len(world.InJudge[*corev1.ConfigMap](w, "configmaps")); n > most {
				w.Failf("%d config maps, more than %d", n, most)
			}
		})
		_, err := client.ResourceQuotas.In(w.Root, world.Namespace).Create(w.T.Context(), &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "some"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/configmaps": quantity(fmt.Sprint(most))}}})
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(40*time.Second, "resourcequota-controller")
		time.Sleep(20 * time.Second)
		var users sync.WaitGroup
		for i := range 4 {
			users.Go(func() {
				rnd := rand.New(rand.NewPCG(w.Seed, 10+uint64(i)))
				maps := client.ConfigMaps.In(w.Door("user"), world.Namespace)
				for range 80 {
					time.Sleep(seconds(rnd, 6))
					name := fmt.Sprintf("c-%d", rnd.IntN(2*most))
					if rnd.IntN(3) == 0 {
						_ = maps.Delete(w.T.Context(), name, client.Options{})
						continue
					}
					_, _ = maps.Create(w.T.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}})
				}
			})
		}
		users.Wait()
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		if made < 2*most {
			w.T.Errorf("seed %d: %d config maps were made, too few to tell", w.Seed, made)
		}
		q, err := client.ResourceQuotas.In(w.Root, world.Namespace).Get(w.T.Context(), "some")
		w.Must(err)
		used := q.Status.Used["count/configmaps"]
		if n := len(world.Objects[*corev1.ConfigMap](w, "configmaps")); used.Value() != int64(n) {
			w.T.Errorf("seed %d: %s used of %d there are", w.Seed, used.String(), n)
		}
	})
}
