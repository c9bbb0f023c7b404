package protection

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlanFinalizer(t *testing.T) {
	now := metav1.Now()
	for name, c := range map[string]struct {
		deleting, has, used bool
		want                action
	}{
		"live without":       {want: add},
		"live with":          {has: true, want: leave},
		"deleted and used":   {deleting: true, has: true, used: true, want: leave},
		"deleted and free":   {deleting: true, has: true, want: remove},
		"deleted, other one": {deleting: true, want: leave},
	} {
		o := &metav1.ObjectMeta{Finalizers: []string{"other"}}
		if c.deleting {
			o.DeletionTimestamp = &now
		}
		if c.has {
			o.Finalizers = append(o.Finalizers, ClaimFinalizer)
		}
		got := planFinalizer(o, ClaimFinalizer, func() bool { return c.used })
		if got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		after := apply(got, o.Finalizers, ClaimFinalizer)
		if !slices.Contains(after, "other") || slices.Contains(after, ClaimFinalizer) != (c.want == add || c.want == leave && c.has) {
			t.Errorf("%s: finalizers %v", name, after)
		}
	}
}

func TestUses(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-e"}}
	yes := true
	own := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u", Controller: &yes}}
	named := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "p-e"}}
	inline := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
	for name, c := range map[string]struct {
		node, ns string
		source   corev1.VolumeSource
		owners   []metav1.OwnerReference
		phase    corev1.PodPhase
		grace    *int64 // left of a pod that is being deleted
		want     bool
	}{
		"ending":             {node: "n", ns: "ns", source: named, grace: new(int64(30)), want: true},
		"ended":              {node: "n", ns: "ns", source: named, grace: new(int64(0))},
		"named":              {node: "n", ns: "ns", source: named, want: true},
		"finished":           {node: "n", ns: "ns", source: named, phase: corev1.PodSucceeded, want: true},
		"without node":       {ns: "ns", source: named},
		"other namespace":    {node: "n", ns: "other", source: named},
		"inline, its own":    {node: "n", ns: "ns", source: inline, owners: own, want: true},
		"inline, not its":    {node: "n", ns: "ns", source: inline},
		"nothing to do with": {node: "n", ns: "ns"},
	} {
		claim.OwnerReferences = c.owners
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "p", UID: "u"}}
		p.Spec.NodeName, p.Status.Phase = c.node, c.phase
		if c.grace != nil {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{}, c.grace
		}
		p.Spec.Volumes = []corev1.Volume{{Name: "e", VolumeSource: c.source}}
		if got := Uses(p, claim); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestClasses(t *testing.T) {
	gold, silver, none := "gold", "silver", ""
	claim := &corev1.PersistentVolumeClaim{
		Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &gold},
		Status: corev1.PersistentVolumeClaimStatus{
			CurrentVolumeAttributesClassName: &silver,
			ModifyVolumeStatus:               &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: gold},
		},
	}
	if got := claimClasses(claim); !slices.Equal(got, []string{gold, silver}) {
		t.Errorf("a claim uses %v", got)
	}
	volume := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &silver}}
	if got := volumeClasses(volume); !slices.Equal(got, []string{silver}) {
		t.Errorf("a volume uses %v", got)
	}
	volume.Spec.VolumeAttributesClassName = &none
	if got := append(claimClasses(nil), volumeClasses(volume)...); len(got) > 0 {
		t.Errorf("got %v of nothing", got)
	}
}
