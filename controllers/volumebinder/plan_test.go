package volumebinder

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u", Annotations: map[string]string{}}}
	c.Spec.AccessModes, c.Spec.StorageClassName = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, ptr.To("")
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if change != nil {
		change(c)
	}
	return c
}

func vol(size string, ref *corev1.ObjectReference) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v", Annotations: map[string]string{}}}
	v.Spec.AccessModes, v.Spec.ClaimRef = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, ref
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	v.Status.Phase = corev1.VolumeAvailable
	return v
}

func TestPlanClaim(t *testing.T) {
	mine := &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "u"}
	others := &corev1.ObjectReference{Namespace: "ns", Name: "x", UID: "y"}
	named := func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }
	bound := func(c *corev1.PersistentVolumeClaim) { named(c); c.Annotations[volume.AnnBindCompleted] = "yes" }
	classed := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("s") }
	chosen := func(c *corev1.PersistentVolumeClaim) { classed(c); c.Annotations[volume.AnnSelectedNode] = "n" }
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Provisioner: "p", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	for name, c := range map[string]struct {
		in                        ClaimInput
		bind                      bool
		phase                     corev1.PersistentVolumeClaimPhase
		reason, provisioner, late string
	}{
		"fits":                       {in: ClaimInput{Claim: claim(nil), Candidates: []*corev1.PersistentVolume{vol("1Gi", nil)}}, bind: true},
		"too small":                  {in: ClaimInput{Claim: claim(nil), Candidates: []*corev1.PersistentVolume{vol("1Mi", nil)}}, phase: "Pending", reason: "FailedBinding"},
		"taken":                      {in: ClaimInput{Claim: claim(nil), Candidates: []*corev1.PersistentVolume{vol("1Gi", others)}}, phase: "Pending", reason: "FailedBinding"},
		"reserved, of another class": {in: ClaimInput{Claim: claim(classed), Class: class, Reserved: []*corev1.PersistentVolume{vol("1Gi", mine)}}, bind: true},
		"reserved, too small":        {in: ClaimInput{Claim: claim(nil), Reserved: []*corev1.PersistentVolume{vol("1Mi", mine)}}, phase: "Pending", reason: "FailedBinding"},
		"reserved for its namesake":  {in: ClaimInput{Claim: claim(nil), Reserved: []*corev1.PersistentVolume{vol("1Gi", &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "former"})}}, phase: "Pending", reason: "FailedBinding"},
		"default class late":         {in: ClaimInput{Claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }), Default: class}, phase: "Pending", late: "s"},
		"class missing":              {in: ClaimInput{Claim: claim(classed)}, phase: "Pending", reason: "ProvisioningFailed"},
		"waits for a pod":            {in: ClaimInput{Claim: claim(classed), Class: class}, phase: "Pending", reason: "WaitForFirstConsumer"},
		"node chosen":                {in: ClaimInput{Claim: claim(chosen), Class: class}, phase: "Pending", reason: "ExternalProvisioning", provisioner: "p"},
		"none is provided":           {in: ClaimInput{Claim: claim(chosen), Class: class, Static: true}, phase: "Pending"},
		"named, not there":           {in: ClaimInput{Claim: claim(named)}, phase: "Pending"},
		"named and free":             {in: ClaimInput{Claim: claim(named), Named: vol("1Gi", nil)}, bind: true},
		"named, too small":           {in: ClaimInput{Claim: claim(named), Named: vol("1Mi", nil)}, phase: "Pending", reason: "VolumeMismatch"},
		"named, another's":           {in: ClaimInput{Claim: claim(named), Named: vol("1Gi", others)}, phase: "Pending", reason: "FailedBinding"},
		"bound":                      {in: ClaimInput{Claim: claim(bound), Named: vol("1Gi", mine)}, bind: true},
		"bound, volume gone":         {in: ClaimInput{Claim: claim(bound)}, phase: "Lost", reason: "ClaimLost"},
		"bound, volume given":        {in: ClaimInput{Claim: claim(bound), Named: vol("1Gi", others)}, phase: "Lost", reason: "ClaimMisbound"},
	} {
		p, err := PlanClaim(c.in)
		if err != nil || (p.Bind != nil) != c.bind || p.Phase != c.phase || p.Note.Reason != c.reason || p.Provisioner != c.provisioner || p.SetClass != c.late {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
}

func TestPlanVolume(t *testing.T) {
	ref := &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "u"}
	to := func(name string) *corev1.PersistentVolumeClaim {
		return claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name })
	}
	for name, c := range map[string]struct {
		ref      *corev1.ObjectReference
		claim    *corev1.PersistentVolumeClaim
		policy   corev1.PersistentVolumeReclaimPolicy
		mark     string
		phase    corev1.PersistentVolumePhase
		reserved string // "", "none" or "name" of the reservation after an unbinding
	}{
		"free":             {phase: "Available"},
		"reserved":         {ref: &corev1.ObjectReference{Namespace: "ns", Name: "c"}, phase: "Available"},
		"claim undecided":  {ref: ref, claim: to("")},
		"bound":            {ref: ref, claim: to("v"), phase: "Bound"},
		"released":         {ref: ref, policy: "Retain", phase: "Released"},
		"recycled":         {ref: ref, policy: "Recycle", phase: "Failed"},
		"deleted by hand":  {ref: ref, policy: "Delete", phase: "Failed"},
		"deleted, ours":    {ref: ref, policy: "Delete", mark: volume.AnnDynamicallyProvisioned, phase: "Released"},
		"claim elsewhere":  {ref: ref, claim: to("w"), mark: volume.AnnBoundByController, phase: "Available", reserved: "none"},
		"elsewhere, user":  {ref: ref, claim: to("w"), phase: "Available", reserved: "name"},
		"elsewhere, spare": {ref: ref, claim: to("w"), policy: "Delete", mark: volume.AnnDynamicallyProvisioned, phase: "Released"},
	} {
		v := vol("1Gi", c.ref)
		v.Spec.PersistentVolumeReclaimPolicy = c.policy
		if c.mark != "" {
			v.Annotations[c.mark] = "yes"
		}
		p, got := PlanVolume(v, c.claim), ""
		if p.Spec != nil {
			got = "none"
			if r := p.Spec.Spec.ClaimRef; r != nil {
				got = "name" + strings.TrimSpace(string(r.UID))
			}
		}
		if p.Phase != c.phase || got != c.reserved {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}
