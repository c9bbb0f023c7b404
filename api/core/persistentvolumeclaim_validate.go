package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
)

func validateClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	return podspec.ValidateClaimSpec(&c.Spec, specPath)
}

// validateClaimUpdate lets a claim be bound, given a class that it lacked,
// grown once bound, and moved to another attributes class; nothing else.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validateClaim(c)
	rest, before := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if before.VolumeName == "" {
		before.VolumeName = rest.VolumeName
	}
	if before.StorageClassName == nil {
		// The default class may come late, or take over from the annotation.
		if a, ok := old.Annotations[corev1.BetaStorageClassAnnotation]; !ok || rest.StorageClassName != nil && *rest.StorageClassName == a {
			before.StorageClassName = rest.StorageClassName
		}
	}
	bound := old.Status.Phase == corev1.ClaimBound
	requests := specPath.Child("resources", "requests", "storage")
	now, was := rest.Resources.Requests[corev1.ResourceStorage], before.Resources.Requests[corev1.ResourceStorage]
	if bound && before.Resources.Requests != nil && rest.Resources.Requests != nil {
		before.Resources.Requests[corev1.ResourceStorage] = now
		// What is granted already cannot be taken back.
		if have, ok := old.Status.Capacity[corev1.ResourceStorage]; now.Cmp(was) < 0 && ok && now.Cmp(have) <= 0 {
			errs = append(errs, field.Forbidden(requests, "field can not be less than status.capacity"))
		}
	}
	before.VolumeAttributesClassName = rest.VolumeAttributesClassName
	if !equal(*rest, *before) {
		errs = append(errs, field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(check.Shown(*before), check.Shown(*rest))))
	}
	errs = append(errs, immutable(c.Annotations[corev1.BetaStorageClassAnnotation], old.Annotations[corev1.BetaStorageClassAnnotation],
		field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation))...)
	if v := old.Spec.VolumeAttributesClassName; v != nil && *v != "" && (c.Spec.VolumeAttributesClassName == nil || *c.Spec.VolumeAttributesClassName == "") && bound {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return append(errs, immutable(c.Spec.VolumeMode, old.Spec.VolumeMode, specPath.Child("volumeMode"))...)
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", c.Status.Capacity}, {"allocatedResources", c.Status.AllocatedResources}} {
		for _, name := range sets.List(sets.KeySet(l.list)) {
			p := statusPath.Child(l.name).Key(string(name))
			errs = append(errs, invalid(p, name, validation.IsQualifiedName(string(name)))...)
			errs = append(errs, podspec.ValidateNonNegative(l.list[name], p)...)
		}
	}
	return errs
}

func claimWarnings(c, _ *corev1.PersistentVolumeClaim) []string {
	var out []string
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		out = append(out, storageClassWarning)
	}
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", c.Spec.Resources.Requests}, {"limits", c.Spec.Resources.Limits}} {
		if s, ok := l.list[corev1.ResourceStorage]; ok && s.MilliValue()%1000 != 0 {
			out = append(out, `spec.resources.`+l.name+`[storage]: fractional byte value "`+s.String()+`" is invalid, must be an integer`)
		}
	}
	return out
}
