package controllers_test

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

func TestStatefulSetFromStartToEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("db"), t.Context()
	sets := client.StatefulSets.In(w.root, ns)
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}}
	s.Spec.Replicas, s.Spec.ServiceName = ptr.To[int32](3), "db"
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	s.Spec.Template.Labels = map[string]string{"app": "db"}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "v1"}}
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}}
	claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{claim}
	s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	}
	_, err := sets.Create(ctx, s)
	w.must(err)
	complete := func(s *appsv1.StatefulSet) bool {
		st := s.Status
		n := *s.Spec.Replicas
		return st.ObservedGeneration == s.Generation && st.Replicas == n && st.AvailableReplicas == n && st.UpdatedReplicas == n && st.CurrentRevision == st.UpdateRevision
	}
	object(w, client.StatefulSets, ns, "db", "complete", complete)
	names := func(n int) func([]*corev1.PersistentVolumeClaim) bool {
		return func(cs []*corev1.PersistentVolumeClaim) bool {
			return len(cs) == n && slices.ContainsFunc(cs, func(c *corev1.PersistentVolumeClaim) bool { return c.Name == "data-db-0" })
		}
	}
	eventually(w, client.PersistentVolumeClaims, ns, "one per pod", names(3))
	ps, _, err := client.Pods.In(w.root, ns).List(ctx, client.Options{})
	w.must(err)
	slices.SortFunc(ps, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, p := range ps {
		if p.Labels["statefulset.kubernetes.io/pod-name"] != p.Name || p.Spec.Hostname != p.Name || p.Spec.Subdomain != "db" {
			t.Errorf("identity of %s: %+v", p.Name, p.Labels)
		}
	}

	// A deleted pod comes back under its name.
	was, err := client.Pods.In(w.root, ns).Get(ctx, "db-1")
	w.must(err)
	w.must(client.Pods.In(w.root, ns).Delete(ctx, "db-1", client.Options{}))
	object(w, client.Pods, ns, "db-1", "another", func(p *corev1.Pod) bool { return p != nil && p.UID != was.UID })
	object(w, client.StatefulSets, ns, "db", "complete", complete)

	// The partition first, then all, then back.
	update := func(image string, partition int32) {
		_, err := sets.Mutate(ctx, "db", "", func(s *appsv1.StatefulSet) (bool, error) {
			s.Spec.Template.Spec.Containers[0].Image = image
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition}
			return true, nil
		})
		w.must(err)
	}
	update("v2", 2)
	eventually(w, client.Pods, ns, "one of v2", func(ps []*corev1.Pod) bool { return len(ps) == 3 && images(ps) == "v1 v1 v2" })
	object(w, client.StatefulSets, ns, "db", "updated down to the partition", func(s *appsv1.StatefulSet) bool {
		return s.Status.UpdatedReplicas == 1 && s.Status.CurrentReplicas == 2 && s.Status.CurrentRevision != s.Status.UpdateRevision
	})
	update("v2", 0)
	object(w, client.StatefulSets, ns, "db", "updated", complete)
	eventually(w, client.Pods, ns, "all of v2", func(ps []*corev1.Pod) bool { return len(ps) == 3 && images(ps) == "v2 v2 v2" })
	revs := eventually(w, client.ControllerRevisions, ns, "two", func(rs []*appsv1.ControllerRevision) bool { return len(rs) == 2 })
	i := slices.IndexFunc(revs, func(r *appsv1.ControllerRevision) bool { return r.Revision == 1 })
	_, err = sets.Patch(ctx, "db", types.StrategicMergePatchType, revs[i].Data.Raw)
	w.must(err)
	object(w, client.StatefulSets, ns, "db", "rolled back", func(s *appsv1.StatefulSet) bool { return complete(s) && s.Status.UpdateRevision == revs[i].Name })

	// A claim goes with the pod that a scale-down removes, and the others stay
	// when the set goes.
	_, err = sets.Mutate(ctx, "db", "", func(s *appsv1.StatefulSet) (bool, error) { s.Spec.Replicas = ptr.To[int32](1); return true, nil })
	w.must(err)
	object(w, client.StatefulSets, ns, "db", "of one", complete)
	eventually(w, client.PersistentVolumeClaims, ns, "only the first's", names(1))
	w.must(sets.Delete(ctx, "db", client.Options{}))
	eventually(w, client.Pods, ns, "gone", func(ps []*corev1.Pod) bool { return len(ps) == 0 })
	eventually(w, client.ControllerRevisions, ns, "gone", func(rs []*appsv1.ControllerRevision) bool { return len(rs) == 0 })
	eventually(w, client.PersistentVolumeClaims, ns, "kept", names(1))
}
