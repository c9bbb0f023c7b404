package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

func (w *world) node(name string) {
	w.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	_, err := client.Nodes.In(w.root, "").Create(w.t.Context(), n)
	w.must(err)
	object(w, client.Nodes, "", name, "untainted", func(n *corev1.Node) bool { return n != nil && len(n.Spec.Taints) == 0 })
}

// aims are the nodes that pods are for, in order.
func aims(ps []*corev1.Pod) string {
	var out []string
	for _, p := range ps {
		if a := p.Spec.Affinity; p.DeletionTimestamp == nil && a != nil {
			out = append(out, a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0])
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestDaemonSetFromStartToEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("daemons"), t.Context()
	sets := client.DaemonSets.In(w.root, ns)
	for _, n := range []string{"n1", "n2", "n3"} {
		w.node(n)
	}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "agent"}}
	ds.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}
	ds.Spec.Template.Labels = map[string]string{"app": "agent"}
	ds.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "v1"}}
	_, err := sets.Create(ctx, ds)
	w.must(err)
	complete := func(n int32) func(*appsv1.DaemonSet) bool {
		return func(ds *appsv1.DaemonSet) bool {
			s := ds.Status
			return s.ObservedGeneration == ds.Generation && s.DesiredNumberScheduled == n && s.NumberAvailable == n && s.UpdatedNumberScheduled == n
		}
	}
	object(w, client.DaemonSets, ns, "agent", "on three nodes", complete(3))
	eventually(w, client.Pods, ns, "one per node", func(ps []*corev1.Pod) bool { return aims(ps) == "n1 n2 n3" })

	// Nodes come and go.
	w.node("n4")
	object(w, client.DaemonSets, ns, "agent", "on four nodes", complete(4))
	_, err = client.Nodes.In(w.root, "").Mutate(ctx, "n4", "", func(n *corev1.Node) (bool, error) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "away", Effect: corev1.TaintEffectNoExecute})
		return true, nil
	})
	w.must(err)
	eventually(w, client.Pods, ns, "gone from the tainted node", func(ps []*corev1.Pod) bool { return len(ps) == 3 && aims(ps) == "n1 n2 n3" })

	// A new template with surge, then back by what rollout undo sends.
	_, err = sets.Mutate(ctx, "agent", "", func(ds *appsv1.DaemonSet) (bool, error) {
		ds.Spec.Template.Spec.Containers[0].Image = "v2"
		ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}
		return true, nil
	})
	w.must(err)
	object(w, client.DaemonSets, ns, "agent", "updated", complete(3))
	eventually(w, client.Pods, ns, "three of v2", func(ps []*corev1.Pod) bool { return len(ps) == 3 && images(ps) == "v2 v2 v2" })
	revs := eventually(w, client.ControllerRevisions, ns, "two revisions", func(rs []*appsv1.ControllerRevision) bool { return len(rs) == 2 })
	i := slices.IndexFunc(revs, func(r *appsv1.ControllerRevision) bool { return r.Revision == 1 })
	if i < 0 {
		t.Fatalf("no first revision in %v", revs)
	}
	_, err = sets.Patch(ctx, "agent", types.StrategicMergePatchType, revs[i].Data.Raw)
	w.must(err)
	object(w, client.DaemonSets, ns, "agent", "rolled back", complete(3))
	eventually(w, client.Pods, ns, "three of v1", func(ps []*corev1.Pod) bool { return len(ps) == 3 && images(ps) == "v1 v1 v1" })
	object(w, client.ControllerRevisions, ns, revs[i].Name, "the newest", func(r *appsv1.ControllerRevision) bool { return r != nil && r.Revision == 3 })

	// The history is cut to its limit, and goes with the set.
	for n := range 3 {
		_, err = sets.Mutate(ctx, "agent", "", func(ds *appsv1.DaemonSet) (bool, error) {
			ds.Spec.Template.Spec.Containers[0].Image, ds.Spec.RevisionHistoryLimit = fmt.Sprint("w", n), ptr.To[int32](1)
			return true, nil
		})
		w.must(err)
		object(w, client.DaemonSets, ns, "agent", "updated", complete(3))
	}
	eventually(w, client.ControllerRevisions, ns, "cut to one old", func(rs []*appsv1.ControllerRevision) bool { return len(rs) == 2 })
	w.must(sets.Delete(ctx, "agent", client.Options{}))
	eventually(w, client.Pods, ns, "gone", func(ps []*corev1.Pod) bool { return len(ps) == 0 })
	eventually(w, client.ControllerRevisions, ns, "gone", func(rs []*appsv1.ControllerRevision) bool { return len(rs) == 0 })
}
