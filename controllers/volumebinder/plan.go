// Package volumebinder binds claims to volumes: claims, volumes and storage
// classes come in, the two-sided binding, phases and events go out. Volumes
// are made and destroyed by provisioners; the binder only asks them to.
package volumebinder

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
)

// Note is an event to record; the zero value is none.
type Note struct{ Type, Reason, Message string }

func warn(reason, format string, args ...any) Note {
	return Note{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

// ClaimInput is what the decision about a claim is made from.
type ClaimInput struct {
	Claim *corev1.PersistentVolumeClaim
	// Named is the volume that the claim names; nil when it names none or
	// there is none of that name.
	Named *corev1.PersistentVolume
	// Candidates are volumes of the claim's class, bound ones included.
	Candidates []*corev1.PersistentVolume
	// Reserved are the volumes that name the claim, of whatever class.
	Reserved []*corev1.PersistentVolume
	// Class is the claim's storage class; nil when there is none.
	Class *storagev1.StorageClass
	// Default is the class for claims that name none; nil when there is none.
	Default *storagev1.StorageClass
	// Static: no volumes are asked for.
	Static bool
}

// ClaimPlan is what to do about a claim.
type ClaimPlan struct {
	// Bind is the volume to bind to, all four writes of it that are missing.
	Bind *corev1.PersistentVolume
	// Phase is the claim's phase otherwise; "" leaves it.
	Phase corev1.PersistentVolumeClaimPhase
	// SetClass is the class that the claim is given late.
	SetClass string
	// Provisioner is asked for a volume.
	Provisioner string
	Note        Note
}

// PlanClaim decides about one claim. A claim that was bound once stays with
// its volume for life, and is lost without it.
func PlanClaim(in ClaimInput) (ClaimPlan, error) {
	if metav1.HasAnnotation(in.Claim.ObjectMeta, volume.AnnBindCompleted) {
		return planBound(in), nil
	}
	if in.Claim.Spec.VolumeName == "" {
		return planUnbound(in)
	}
	return planNamed(in), nil
}

func planBound(in ClaimInput) ClaimPlan {
	lost := func(reason, message string) ClaimPlan {
		p := ClaimPlan{Phase: corev1.ClaimLost}
		if in.Claim.Status.Phase != corev1.ClaimLost {
			p.Note = warn(reason, "%s", message)
		}
		return p
	}
	switch {
	case in.Claim.Spec.VolumeName == "":
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case in.Named == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case in.Named.Spec.ClaimRef != nil && in.Named.Spec.ClaimRef.UID != in.Claim.UID && !refers(in.Named, in.Claim):
		return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	return ClaimPlan{Bind: in.Named}
}

// refers says that a volume is reserved for this claim, by name and, once
// they are bound, by UID.
func refers(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return volume.IsVolumeBoundToClaim(v, claim)
}

func planNamed(in ClaimInput) ClaimPlan {
	pending := ClaimPlan{Phase: corev1.ClaimPending}
	v := in.Named
	switch {
	case v == nil: // the volume may yet be made
	case v.Spec.ClaimRef == nil:
		if why := mismatch(v, in.Claim); why != "" {
			pending.Note = warn("VolumeMismatch", "Cannot bind to requested volume %q: %s", v.Name, why)
			break
		}
		return ClaimPlan{Bind: v}
	case refers(v, in.Claim):
		return ClaimPlan{Bind: v}
	default:
		pending.Note = warn("FailedBinding", "volume %q already bound to a different claim.", v.Name)
	}
	return pending
}

// mismatch says why a volume cannot serve a claim that asks for it by name.
// The claim's selector is not asked: the name is the more precise choice.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	have, want := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case have.Cmp(want) < 0:
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(claim, v):
		return "incompatible accessMode"
	case v.DeletionTimestamp != nil:
		return "requested PV is being deleted"
	}
	return ""
}

func planUnbound(in ClaimInput) (ClaimPlan, error) {
	delayed := in.Class != nil && in.Class.VolumeBindingMode != nil && *in.Class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	// Whoever reserved a volume for the claim has chosen, whatever its class.
	candidates := slices.DeleteFunc(slices.Clone(in.Reserved), func(v *corev1.PersistentVolume) bool {
		return !refers(v, in.Claim) || !volume.CheckAccessModes(in.Claim, v)
	})
	candidates = append(candidates, in.Candidates...)
	found, err := volume.FindMatchingVolume(in.Claim, candidates, nil, nil, delayed, true)
	if err != nil {
		return ClaimPlan{}, fmt.Errorf("looking for a volume: %w", err)
	}
	plan := ClaimPlan{Phase: corev1.ClaimPending}
	class := volume.GetPersistentVolumeClaimClass(in.Claim)
	switch {
	case found != nil:
		return ClaimPlan{Bind: found}, nil
	case !volume.PersistentVolumeClaimHasClass(in.Claim) && in.Default != nil:
		plan.SetClass = in.Default.Name
	case class == "":
		plan.Note = Note{corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"}
	case in.Class == nil:
		plan.Note = warn("ProvisioningFailed", "storageclass.storage.k8s.io %q not found", class)
	case delayed && !volume.IsDelayBindingProvisioning(in.Claim):
		plan.Note = Note{corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding"}
	case in.Class.Provisioner == volume.NotSupportedProvisioner:
		plan.Note = Note{corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"}
	case in.Static:
	default:
		plan.Provisioner = in.Class.Provisioner
		plan.Note = Note{corev1.EventTypeNormal, "ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", in.Class.Provisioner)}
	}
	return plan, nil
}

// boundClaim returns the claim with its side of the binding, and whether that
// is a change. A name that the user gave is not marked as the controller's.
func boundClaim(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, bool) {
	out, changed := claim.DeepCopy(), false
	if out.Spec.VolumeName != v.Name {
		out.Spec.VolumeName, changed = v.Name, true
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	if !metav1.HasAnnotation(out.ObjectMeta, volume.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, volume.AnnBindCompleted, "yes")
		changed = true
	}
	return out, changed
}

// boundStatus returns the claim with the status of a bound one, and whether
// that is a change. A bound claim's capacity is its resizer's to report.
func boundStatus(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, bool) {
	out := claim.DeepCopy()
	size, ok := out.Status.Capacity[corev1.ResourceStorage]
	if out.Status.Phase != corev1.ClaimBound || !ok || size.IsZero() {
		if out.Status.Capacity == nil {
			out.Status.Capacity = corev1.ResourceList{}
		}
		out.Status.Capacity[corev1.ResourceStorage] = v.Spec.Capacity[corev1.ResourceStorage]
	}
	out.Status.Phase = corev1.ClaimBound
	out.Status.AccessModes = append([]corev1.PersistentVolumeAccessMode(nil), v.Spec.AccessModes...)
	if name := v.Spec.VolumeAttributesClassName; name != nil && *name != "" && out.Status.CurrentVolumeAttributesClassName == nil {
		out.Status.CurrentVolumeAttributesClassName = new(*name)
	}
	return out, !apiequality.Semantic.DeepEqual(out.Status, claim.Status)
}
