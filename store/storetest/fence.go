package storetest

import (
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/internal/tenure"
	"github.com/coxswain/cox/store"
)

// testFence has leaders take over from each other while what the one before
// writes is on its way, and all clocks stand still.
func testFence(t *testing.T, open Opener) {
	s := open(t, Options{})
	leases, i := s.Kind(Leases), s.Kind(ConfigMaps)
	const name = "kube-system/l"
	start := time.Now()
	lease := func(holder string, renewed int) *coordinationv1.Lease {
		l := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseTransitions: ptr.To[int32](0),
			AcquireTime: &metav1.MicroTime{Time: start}, RenewTime: &metav1.MicroTime{Time: start.Add(time.Duration(renewed) * time.Second)},
		}}
		l.Namespace, l.Name = "kube-system", "l"
		return l
	}
	write := func(l *coordinationv1.Lease) int64 {
		t.Helper()
		e, err := leases.Update(t.Context(), name, true, func(*store.Entry) (runtime.Object, error) { return l, nil })
		if err != nil {
			t.Fatal(err)
		}
		return e.Revision
	}
	leader := func(revision int64) *tenure.Tenure {
		n := &tenure.Tenure{Length: time.Hour}
		n.Renewed(start)
		n.Taken(tenure.Fence{Lease: name, Revision: revision})
		return n
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), tenure.ErrOver.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}

	a := tenure.With(t.Context(), leader(write(lease("a", 0))))
	write(lease("a", 1))
	if _, err := i.Create(a, "ns/a", ConfigMap("ns", "a", "1")); err != nil {
		t.Fatalf("a leads, and has renewed its lease: %v", err)
	}
	var b int64
	_, err := i.Update(a, "ns/a", false, func(*store.Entry) (runtime.Object, error) {
		b = write(lease("b", 2))
		return ConfigMap("ns", "a", "2"), nil
	})
	refused("a updates", err)
	_, err = i.Create(a, "ns/b", ConfigMap("ns", "b", "1"))
	refused("a creates", err)
	_, err = i.Delete(a, "ns/a", nil, nil)
	refused("a deletes", err)
	equal(t, "values", values(list(t, i, "", store.ListOptions{})), []string{"ns/a=1"})

	ctx := tenure.With(t.Context(), leader(b))
	again := 0
	if _, err := i.Update(ctx, "ns/a", false, func(*store.Entry) (runtime.Object, error) {
		if again++; again == 1 { // another's write comes between
			if _, err := i.Update(t.Context(), "ns/a", false, func(*store.Entry) (runtime.Object, error) {
				return ConfigMap("ns", "a", "2"), nil
			}); err != nil {
				t.Error(err)
			}
		}
		return ConfigMap("ns", "a", "3"), nil
	}); err != nil || again != 2 {
		t.Errorf("b updates at the %d. try: %v", again, err)
	}
	if _, err := i.Delete(ctx, "ns/a", nil, nil); err != nil {
		t.Errorf("b deletes: %v", err)
	}

	// The same identity in another process begins a term of its own, and a
	// Lease that is deleted and made again does.
	next := lease("b", 3)
	next.Spec.AcquireTime.Time = start.Add(time.Second)
	c := write(next)
	_, err = i.Create(ctx, "ns/c", ConfigMap("ns", "c", "1"))
	refused("b's process before this one creates", err)
	if _, err := leases.Delete(t.Context(), name, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Create(tenure.With(t.Context(), leader(c)), "ns/c", ConfigMap("ns", "c", "1")); err != nil {
		t.Errorf("nobody else has come: %v", err)
	}
	write(next.DeepCopy())
	_, err = i.Delete(tenure.With(t.Context(), leader(c)), "ns/c", nil, nil)
	refused("who led before the Lease was made anew deletes", err)
}
