package histories_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/world"
)

// owners judges what the garbage collector deletes.
type owners struct {
	w *world.World
	// released are objects that an orphaning deletion of an owner has freed.
	released map[types.UID]bool
}

// everything is all that the history plays with, by UID.
func (o *owners) everything() map[types.UID]client.Object {
	all := map[types.UID]client.Object{}
	for _, m := range world.InJudge[*corev1.ConfigMap](o.w, "configmaps") {
		all[m.UID] = m
	}
	for _, p := range world.InJudge[*schedulingv1.PriorityClass](o.w, "priorityclasses") {
		all[p.UID] = p
	}
	return all
}

// reaches says that a reference is to this very object.
func reaches(from client.Object, ref metav1.OwnerReference, to client.Object) bool {
	kind := "ConfigMap"
	if _, ok := to.(*schedulingv1.PriorityClass); ok {
		kind = "PriorityClass"
	}
	return to != nil && ref.Kind == kind && ref.Name == to.GetName() && (to.GetNamespace() == "" || to.GetNamespace() == from.GetNamespace())
}

// live are the owners that keep an object.
func live(obj client.Object, all map[types.UID]client.Object) (out []string) {
	for _, ref := range obj.GetOwnerReferences() {
		owner, ok := all[ref.UID]
		if !ok || !reaches(obj, ref, owner) {
			continue
		}
		if owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), metav1.FinalizerDeleteDependents) {
			continue // it waits for its dependents to go first
		}
		out = append(out, owner.GetName())
	}
	return out
}

func (o *owners) judge(c world.Change) {
	if c.Resource != "configmaps" || !strings.HasSuffix(c.Actor, ":generic-garbage-collector") || c.Old == nil {
		return
	}
	if c.Old.GetDeletionTimestamp() != nil || c.New != nil && c.New.GetDeletionTimestamp() == nil {
		return
	}
	if len(c.Old.GetOwnerReferences()) == 0 {
		o.w.Failf("%s is collected, though it has no owner", c.Old.GetName())
	}
	if keep := live(c.Old, o.everything()); len(keep) > 0 {
		o.w.Failf("%s is collected, though %v own it", c.Old.GetName(), keep)
	}
}

// TestOwnersKeepWhatTheyOwn makes and deletes objects that own one another, in
// circles, across namespaces, absent owners and ones that are made anew, in all
// three ways of deletion: nothing is collected that has an owner, and in the
// end nothing is left whose owners have all gone.
func TestOwnersKeepWhatTheyOwn(t *testing.T) {
	world.Histories(t, 8, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		o := &owners{w: w, released: map[types.UID]bool{}}
		w.Judge(o.judge)
		w.AddNamespace("there")
		w.SetFaults(world.Rough())
		calm := w.Lives(time.Minute, "garbage-collector-controller")
		time.Sleep(20 * time.Second)
		ctx := w.T.Context()
		spaces := []string{world.Namespace, world.Namespace, "there"}
		policies := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}
		refs := func() []metav1.OwnerReference {
			var out []metav1.OwnerReference
			all := world.Objects[*corev1.ConfigMap](w, "configmaps")
			for range rnd.IntN(3) {
				switch classes := world.Objects[*schedulingv1.PriorityClass](w, "priorityclasses"); {
				case rnd.IntN(12) == 0:
					out = append(out, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: types.UID(fmt.Sprint("nobody-", rnd.IntN(5)))})
				case rnd.IntN(6) == 0 && len(classes) > 0:
					p := classes[rnd.IntN(len(classes))]
					out = append(out, metav1.OwnerReference{APIVersion: "scheduling.k8s.io/v1", Kind: "PriorityClass", Name: p.Name, UID: p.UID})
				case len(all) > 0:
					m := all[rnd.IntN(len(all))]
					out = append(out, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: m.Name, UID: m.UID, BlockOwnerDeletion: ptr.To(rnd.IntN(2) == 0)})
				}
			}
			return out
		}
		for range 120 {
			time.Sleep(seconds(rnd, 3))
			name, ns := fmt.Sprintf("m-%d", rnd.IntN(25)), spaces[rnd.IntN(3)]
			maps := client.ConfigMaps.In(w.Door("user"), ns)
			switch rnd.IntN(6) {
			case 0, 1, 2:
				_, _ = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: refs()}})
			case 3:
				_ = maps.Delete(ctx, name, client.Options{PropagationPolicy: &policies[rnd.IntN(3)]})
			case 4:
				list := refs()
				_, _ = maps.Mutate(ctx, name, "", func(m *corev1.ConfigMap) (bool, error) { m.OwnerReferences = list; return true, nil })
			case 5:
				classes := client.PriorityClasses.In(w.Door("user"), "")
				if name := fmt.Sprintf("p-%d", rnd.IntN(3)); rnd.IntN(2) == 0 {
					_, _ = classes.Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}})
				} else {
					_ = classes.Delete(ctx, name, client.Options{PropagationPolicy: &policies[rnd.IntN(2)]})
				}
			}
		}
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		all := o.everything()
		for _, obj := range all {
			if obj.GetDeletionTimestamp() != nil {
				w.T.Errorf("seed %d: at the end %s/%s still ends: %v", w.Seed, obj.GetNamespace(), obj.GetName(), obj.GetFinalizers())
			}
			if n := len(obj.GetOwnerReferences()); n > 0 && len(live(obj, all)) == 0 {
				w.T.Errorf("seed %d: at the end %s/%s is left, though its owners have gone: %v", w.Seed, obj.GetNamespace(), obj.GetName(), obj.GetOwnerReferences())
			}
		}
	})
}
