package histories_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/world"
)

// retained judges the claims of a StatefulSet (KEP-1847).
type retained struct {
	w      *world.World
	policy appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
	// replicas are wanted now; gone are the ordinals that were not, for a time
	// since their claim was made.
	replicas int
	gone     map[int]bool
	over     bool // the set is deleted
}

// scale is to be called within the judges' lock, by the change of the set.
func (r *retained) scale(replicas int) {
	r.replicas = replicas
	for n := range 10 {
		if n >= replicas {
			r.gone[n] = true
		}
	}
}

func (r *retained) judge(c world.Change) {
	switch c.Resource {
	case "statefulsets":
		if set, ok := c.New.(*appsv1.StatefulSet); ok {
			r.scale(int(*set.Spec.Replicas))
			r.over = r.over || set.DeletionTimestamp != nil
		} else {
			r.over = true
		}
	case "persistentvolumeclaims":
		n := ordinal(c.Object().GetName())
		switch {
		case c.Old == nil:
			r.gone[n] = n >= r.replicas
		case c.Old.GetDeletionTimestamp() != nil || c.New != nil && c.New.GetDeletionTimestamp() == nil:
		case r.over && r.policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		case r.policy.WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
			r.w.Failf("claim %s is deleted, which is to be kept", c.Object().GetName())
		case !r.gone[n]:
			r.w.Failf("claim %s is deleted, whose member was wanted all the time", c.Object().GetName())
		default:
			for _, p := range world.InJudge[*corev1.Pod](r.w, "pods") {
				if strings.HasSuffix(c.Object().GetName(), p.Name) && p.DeletionTimestamp == nil {
					r.w.Failf("claim %s is deleted under its pod", c.Object().GetName())
				}
			}
		}
	}
}

// TestClaimsAreRetained scales a StatefulSet up and down and deletes it in the
// end, while its controller and the garbage collector live short lives: claims
// go with members that are not wanted, or with the set, if the policy says so,
// and else never.
func TestClaimsAreRetained(t *testing.T) {
	world.Histories(t, 6, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		policies := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		r := &retained{w: w, gone: map[int]bool{}}
		r.policy = appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: policies[rnd.IntN(2)], WhenDeleted: policies[rnd.IntN(2)]}
		w.Judge(r.judge)
		w.Kubelets(3, service)
		replicas := 1 + rnd.IntN(5)
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "db"}, Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template("db", "v0"),
			PersistentVolumeClaimRetentionPolicy: r.policy.DeepCopy(),
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity("1Gi")}},
			}}},
		}}
		if rnd.IntN(2) == 0 {
			set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
		sets := client.StatefulSets.In(w.Root, world.Namespace)
		_, err := sets.Create(w.T.Context(), set)
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(30*time.Second, "statefulset-controller", "garbage-collector-controller", "persistentvolumeclaim-protection-controller")
		for range 8 {
			time.Sleep(seconds(rnd, 120))
			replicas = rnd.IntN(6)
			_, err := sets.Mutate(w.T.Context(), "db", "", func(s *appsv1.StatefulSet) (bool, error) {
				s.Spec.Replicas = ptr.To(int32(replicas))
				return true, nil
			})
			w.Must(err)
		}
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		claims := world.Objects[*corev1.PersistentVolumeClaim](w, "persistentvolumeclaims")
		for _, c := range claims {
			n := ordinal(c.Name)
			if r.policy.WhenScaled == policies[1] && n >= replicas {
				w.T.Errorf("seed %d: at the end claim %s is left of %d", w.Seed, c.Name, replicas)
			}
		}
		if len(claims) < replicas {
			w.T.Errorf("seed %d: at the end %d claims of %d", w.Seed, len(claims), replicas)
		}
		w.Must(sets.Delete(w.T.Context(), "db", client.Options{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
		w.Settle()
		left := len(world.Objects[*corev1.PersistentVolumeClaim](w, "persistentvolumeclaims"))
		want := len(claims)
		if r.policy.WhenDeleted == policies[1] {
			// A claim of a member that went by scaling stays, if that keeps it: it has no
			// owner until the set looks at it again, which is when its member is back.
			want = 0
			if r.policy.WhenScaled == policies[0] {
				want = -1
			}
		}
		if want >= 0 && left != want {
			w.T.Errorf("seed %d: after the set %d claims are left, want %d; %+v", w.Seed, left, want, r.policy)
		}
		for _, c := range world.Objects[*corev1.PersistentVolumeClaim](w, "persistentvolumeclaims") {
			if want < 0 && ordinal(c.Name) < replicas {
				w.T.Errorf("seed %d: claim %s is left after the set", w.Seed, c.Name)
			}
		}
	})
}
