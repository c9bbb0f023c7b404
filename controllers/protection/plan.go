// Package protection keeps claims and volumes from going while they are in
// use: claims and the pods that use them, volumes and their phases come in,
// finalizers put on and taken off go out.
package protection

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/coxswain/cox/api/podspec"
)

// The finalizers, as the API documents them (Storage Object in Use
// Protection).
const (
	ClaimFinalizer  = "kubernetes.io/pvc-protection"
	VolumeFinalizer = "kubernetes.io/pv-protection"
	ClassFinalizer  = "kubernetes.io/vac-protection"
)

// action is what is to be done about an object's finalizer.
type action int

const (
	leave action = iota
	add
	remove
)

// planFinalizer decides from whether an object is in use, which is asked only
// of one that is being deleted and still has the finalizer.
func planFinalizer(o metav1.Object, finalizer string, inUse func() bool) action {
	has := slices.Contains(o.GetFinalizers(), finalizer)
	switch {
	case o.GetDeletionTimestamp() == nil && !has:
		return add
	case o.GetDeletionTimestamp() != nil && has && !inUse():
		return remove
	}
	return leave
}

// Uses says that a pod keeps a claim: it has a node (until then no kubelet
// would start it with a claim that is being deleted) and one of its volumes
// is the claim. A finished pod keeps its claims until it is deleted and its node
// is done with it.
func Uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" || pod.Namespace != claim.Namespace || shutDown(pod) {
		return false
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if podspec.ClaimName(pod, v) == claim.Name && (v.Ephemeral == nil || ephemeral.VolumeIsForPod(pod, claim) == nil) {
			return true
		}
	}
	return false
}

// shutDown says that a pod's node is done with it, or was told not to wait: it
// stays only for its finalizers, such as that of a deletion that waits for the
// pod's own claims.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

// claimClasses are the VolumeAttributesClasses that a claim wants, has, or is
// being changed to, each once; none of nil.
func claimClasses(claim *corev1.PersistentVolumeClaim) []string {
	if claim == nil {
		return nil
	}
	names := []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName}
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		names = append(names, &m.TargetVolumeAttributesClassName)
	}
	return namesOf(names...)
}

// volumeClasses is the VolumeAttributesClass that a volume has, if any.
func volumeClasses(v *corev1.PersistentVolume) []string {
	if v == nil {
		return nil
	}
	return namesOf(v.Spec.VolumeAttributesClassName)
}

func namesOf(names ...*string) []string {
	var out []string
	for _, n := range names {
		if n != nil && *n != "" && !slices.Contains(out, *n) {
			out = append(out, *n)
		}
	}
	return out
}

// apply returns the finalizers after an action.
func apply(a action, finalizers []string, finalizer string) []string {
	switch a {
	case add:
		return append(slices.Clone(finalizers), finalizer)
	case remove:
		return slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool { return f == finalizer })
	}
	return finalizers
}
