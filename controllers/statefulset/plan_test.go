package statefulset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
)

var now = time.Unix(1e9, 0)

func set(replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "set", Generation: 4}}
	s.Spec.Replicas, s.Spec.ServiceName = &replicas, "svc"
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	s.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
	for _, f := range change {
		f(s)
	}
	return s
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
}
func from(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: n} }
}
func rolling(partition int32, unavailable string) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition, MaxUnavailable: ptr.To(intstr.Parse(unavailable))}
	}
}

// pod reads "ordinal:flags": o old revision, u not ready, d being deleted, f
// failed, y ready for a second.
func pod(spec string) *corev1.Pod {
	n, flags, _ := strings.Cut(spec, ":")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-" + n, UID: types.UID("uid-" + n)}}
	p.Labels = map[string]string{appsv1.StatefulSetRevisionLabel: "new"}
	p.Status.Phase = corev1.PodRunning
	ready, since := true, now.Add(-time.Hour)
	for _, f := range flags {
		switch f {
		case 'o':
			p.Labels[appsv1.StatefulSetRevisionLabel] = "old"
		case 'u':
			ready = false
		case 'd':
			p.DeletionTimestamp = &metav1.Time{Time: now}
		case 'f':
			p.Status.Phase, ready = corev1.PodFailed, false
		case 'y':
			since = now.Add(-time.Second)
		}
	}
	if ready {
		pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)})
	}
	return p
}

func TestMake(t *testing.T) {
	slow := func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 10 }
	for _, tc := range []struct {
		name           string
		set            *appsv1.StatefulSet
		pods           string
		create, delete string
		status         string // replicas ready available current updated, current revision
	}{
		{"the first", set(3), "", "0new", "", "0 0 0 0 0 old"},
		{"the second waits for the first", set(3), "0:u", "", "", "1 0 0 0 1 old"},
		{"the second", set(3), "0", "1new", "", "1 1 1 0 1 old"},
		{"ready is not available", set(3, slow), "0:y", "", "", "1 1 0 0 1 old"},
		{"all at once", set(3, parallel), "", "0new 1new 2new", "", "0 0 0 0 0 old"},
		{"complete", set(2), "0 1", "", "", "2 2 2 2 2 new"},
		{"a hole is filled first", set(3), "0 2", "1new", "", "2 2 2 0 2 old"},
		{"failed goes before it comes back", set(2), "0:f 1", "", "0", "2 1 1 0 2 old"},
		{"terminating keeps its name", set(2), "0 1:d", "", "", "2 2 2 0 1 old"},
		{"start ordinal", set(2, from(5)), "5", "6new", "", "1 1 1 0 1 old"},
		{"moved start: new ones first", set(2, from(1)), "0 1", "2new", "", "2 2 2 2 2 new"},
		{"moved start: then the others go", set(2, from(1)), "0 1 2", "", "0", "3 3 3 0 3 old"},
		{"highest goes first", set(1), "0 1 2", "", "2", "3 3 3 0 3 old"},
		{"one at a time", set(1), "0 1 2:d", "", "", "3 3 3 0 2 old"},
		{"broken member holds up a scale-down", set(1), "0:u 1", "", "", "2 1 1 0 2 old"},
		{"the broken one itself may go", set(1), "0 1:u", "", "1", "2 1 1 0 2 old"},
		{"another broken one below holds up", set(1), "0 1:u 2:u", "", "", "3 1 1 0 3 old"},
		{"scale-down in parallel", set(1, parallel), "0:u 1 2", "", "2 1", "3 2 2 0 3 old"},
		{"update from the top", set(3), "0:o 1:o 2:o", "", "2", "3 3 3 3 0 old"},
		{"update waits", set(3), "0:o 1:o 2:u", "", "", "3 2 2 2 1 old"},
		{"stuck on a broken update", set(3), "0:o 1:o 2:ou", "", "", "3 2 2 3 0 old"},
		{"a broken update in parallel is not stuck", set(3, parallel), "0:o 1:o 2:ou", "", "2", "3 2 2 3 0 old"},
		{"partition", set(3, rolling(2, "1")), "0:o 1:o 2", "", "", "3 3 3 2 1 old"},
		{"below the partition comes back old", set(3, rolling(2, "1")), "1:o 2", "0old", "", "2 2 2 1 1 old"},
		{"at the partition comes back new", set(3, rolling(1, "1")), "0:o", "1new", "", "1 1 1 1 0 old"},
		{"two may be missing", set(4, rolling(0, "50%")), "0:o 1:o 2:o 3:o", "", "3 2", "4 4 4 4 0 old"},
		{"two may be missing, one is", set(4, parallel, rolling(0, "2")), "0:o 1:o 2:o 3:u", "", "2", "4 3 3 3 1 old"},
		{"on delete", set(2, onDelete), "0:o 1:o", "", "", "2 2 2 2 0 old"},
		{"on delete comes back new", set(2, onDelete), "0:o", "1new", "", "1 1 1 1 0 old"},
		{"being deleted", set(2, func(s *appsv1.StatefulSet) { s.DeletionTimestamp = &metav1.Time{Time: now} }), "0:o", "", "", "1 1 1 1 0 old"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := State{Set: tc.set, Current: "old", Update: "new", Now: now}
			for _, p := range strings.Fields(tc.pods) {
				s.Pods = append(s.Pods, pod(p))
			}
			plan := Make(s)
			var create, del []string
			for _, p := range plan.Create {
				create = append(create, fmt.Sprint(p.Ordinal, p.Revision))
			}
			for _, p := range plan.Delete {
				del = append(del, strings.TrimPrefix(p.Name, "web-"))
			}
			st := plan.Status
			status := fmt.Sprint(st.Replicas, st.ReadyReplicas, st.AvailableReplicas, st.CurrentReplicas, st.UpdatedReplicas, " ", st.CurrentRevision)
			status = strings.ReplaceAll(status, "  ", " ")
			c := strings.ReplaceAll(strings.Join(create, " "), "  ", " ")
			if d := strings.Join(del, " "); c != tc.create || d != tc.delete || status != tc.status {
				t.Errorf("create %q, delete %q, status %q; want %q, %q, %q", c, d, status, tc.create, tc.delete, tc.status)
			}
			if st.UpdateRevision != "new" || st.ObservedGeneration != 4 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestOrdinals(t *testing.T) {
	for name, want := range map[string]int{"web-0": 0, "web-12": 12, "web-012": -1, "web--1": -1, "web-x": -1, "web-1-2": -1, "other-1": -1, "web-99999999999": -1} {
		if got := ordinalOf(set(1), name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

func withClaims(whenDeleted, whenScaled string) *appsv1.StatefulSet {
	s := set(1)
	t := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"mine": "yes"}}}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{t}
	s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.PersistentVolumeClaimRetentionPolicyType(whenDeleted), WhenScaled: appsv1.PersistentVolumeClaimRetentionPolicyType(whenScaled),
	}
	return s
}

func TestNewPod(t *testing.T) {
	s := withClaims("Retain", "Retain")
	template := &corev1.PodTemplateSpec{}
	template.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}, {Name: "tmp"}}
	p := newPod(s, template, "r1", 3)
	if p.Name != "web-3" || p.GenerateName != "" || p.Spec.Hostname != "web-3" || p.Spec.Subdomain != "svc" ||
		p.Labels["statefulset.kubernetes.io/pod-name"] != "web-3" || p.Labels["apps.kubernetes.io/pod-index"] != "3" || p.Labels["controller-revision-hash"] != "r1" {
		t.Errorf("%+v", p)
	}
	if len(p.Spec.Volumes) != 2 || p.Spec.Volumes[0].PersistentVolumeClaim == nil || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-web-3" || p.Spec.Volumes[0].EmptyDir != nil {
		t.Errorf("volumes %+v", p.Spec.Volumes)
	}
	c := claims(s, 3)
	if len(c) != 1 || c[0].Name != "data-web-3" || c[0].Labels["app"] != "web" || c[0].Labels["mine"] != "yes" {
		t.Errorf("claims %+v", c)
	}
}

func TestRetention(t *testing.T) {
	p := pod("0")
	claim := func(refs ...metav1.OwnerReference) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data-web-0", OwnerReferences: refs}}
	}
	ofSet := metav1.OwnerReference{Kind: "StatefulSet", Name: "web", UID: "set", Controller: ptr.To(true)}
	ofPod := metav1.OwnerReference{Kind: "Pod", Name: "web-0", UID: p.UID, Controller: ptr.To(true)}
	asOwner := metav1.OwnerReference{Kind: "StatefulSet", Name: "web", UID: "set"}
	ofUser := metav1.OwnerReference{Kind: "ConfigMap", Name: "u", UID: "user"}
	ofOther := metav1.OwnerReference{Kind: "Other", Name: "o", UID: "o", Controller: ptr.To(true)}
	for _, tc := range []struct {
		name            string
		deleted, scaled string
		condemned       bool
		claim           *corev1.PersistentVolumeClaim
		want            string
	}{
		{"kept", "Retain", "Retain", false, claim(), "same"},
		{"kept in a scale-down", "Retain", "Retain", true, claim(), "same"},
		{"with the set", "Delete", "Retain", false, claim(), "set"},
		{"already", "Delete", "Retain", false, claim(ofSet), "same"},
		{"with the pod", "Retain", "Delete", true, claim(), "uid-0"},
		{"from the set to the pod", "Delete", "Delete", true, claim(ofSet), "uid-0"},
		{"and back", "Delete", "Delete", false, claim(ofPod), "set"},
		{"scaled up again", "Retain", "Delete", false, claim(ofPod), ""},
		{"policy taken back", "Retain", "Retain", false, claim(ofSet), ""},
		{"no longer its controller", "Delete", "Retain", false, claim(asOwner), "set"},
		{"beside an owner that controls nothing", "Delete", "Retain", false, claim(ofUser, asOwner), "user? set"},
		{"no longer its controller, and to be kept", "Retain", "Retain", false, claim(asOwner), ""},
		{"no longer its controller, which is another", "Delete", "Retain", false, claim(asOwner, ofOther), "same"},
		{"another's", "Delete", "Delete", true, claim(ofOther), "same"},
	} {
		s := withClaims(tc.deleted, tc.scaled)
		refs, change := ownersOf(s, tc.claim, "web-0", p, retentionOf(s, tc.condemned))
		var uids []string
		for _, r := range refs {
			uid := string(r.UID)
			if r.Controller == nil || !*r.Controller {
				uid += "?"
			}
			uids = append(uids, uid)
		}
		got := strings.Join(uids, " ")
		if !change {
			got = "same"
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	if !stale(claim(ofPod), "web-0", nil) || stale(claim(ofPod), "web-0", p) || stale(claim(ofSet), "web-0", nil) {
		t.Error("a claim that goes with an earlier pod is stale, and only that")
	}
}
