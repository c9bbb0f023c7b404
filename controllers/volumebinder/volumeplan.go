package volumebinder

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
)

// VolumePlan is what to do about a volume.
type VolumePlan struct {
	// Spec is the volume with its reservation taken back; nil leaves it.
	Spec *corev1.PersistentVolume
	// Phase and Reason and Message are the status to have; "" leaves it.
	Phase           corev1.PersistentVolumePhase
	Reason, Message string
	// Claim says that the claim has to be looked at.
	Claim bool
	Note  Note
}

// PlanVolume decides about one volume. claim is the one that the volume is
// bound to (of that very UID), nil when there is none any more. A volume that
// was bound is never given to another claim before it has been reclaimed.
func PlanVolume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) VolumePlan {
	ref := v.Spec.ClaimRef
	switch {
	case ref == nil:
		return VolumePlan{Phase: corev1.VolumeAvailable}
	case ref.UID == "": // reserved, not bound
		return VolumePlan{Phase: corev1.VolumeAvailable, Claim: true}
	case claim == nil:
		return released(v)
	case claim.Spec.VolumeName == "":
		p := VolumePlan{Claim: true}
		if volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			p.Note = warn("VolumeMismatch", "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)
		}
		return p
	case claim.Spec.VolumeName == v.Name:
		return VolumePlan{Phase: corev1.VolumeBound, Claim: claim.Status.Phase != corev1.ClaimBound}
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return released(v) // made for a claim that took another
	}
	return unbind(v)
}

// unbind takes back the reservation: all of it if the controller made it,
// else only the UID, so that the user's choice stands.
func unbind(v *corev1.PersistentVolume) VolumePlan {
	out := v.DeepCopy()
	if metav1.HasAnnotation(out.ObjectMeta, volume.AnnBoundByController) {
		out.Spec.ClaimRef = nil
		delete(out.Annotations, volume.AnnBoundByController)
	} else {
		out.Spec.ClaimRef.UID, out.Spec.ClaimRef.ResourceVersion = "", ""
	}
	return VolumePlan{Spec: out, Phase: corev1.VolumeAvailable}
}

// released is a volume whose claim is gone. What a provisioner made is the
// provisioner's to delete; nothing in the control plane reaches into a node
// or a storage system to delete or wipe what a user made by hand.
func released(v *corev1.PersistentVolume) VolumePlan {
	failed := func(reason, message string) VolumePlan {
		p := VolumePlan{Phase: corev1.VolumeFailed, Reason: reason, Message: message}
		if v.Status.Phase != corev1.VolumeFailed {
			p.Note = warn(reason, "%s", message)
		}
		return p
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRecycle:
		return failed("VolumeFailedRecycle", "No recycler plugin found for the volume!")
	case corev1.PersistentVolumeReclaimDelete:
		if !metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.CSI == nil {
			return failed("VolumeFailedDelete", "error getting deleter volume plugin for volume \""+v.Name+"\": no deletable volume plugin matched")
		}
	}
	return VolumePlan{Phase: corev1.VolumeReleased}
}
