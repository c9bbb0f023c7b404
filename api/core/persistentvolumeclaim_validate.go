package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	now, was := rest.Resources.Requests[corev1.ResourceStorage], before.Resources.Requests[corev1.ResourceStorage]
	if bound := old.Status.Phase == corev1.ClaimBound; bound {
		before.VolumeAttributesClassName = rest.VolumeAttributesClassName
		if before.Resources.Requests != nil && rest.Resources.Requests != nil {
			before.Resources.Requests[corev1.ResourceStorage] = now
		}
	}
	if !equal(*rest, *before) {
		errs = append(errs, field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(check.Shown(*before), check.Shown(*rest))))
	}
	// What is granted already cannot be taken back.
	if have := old.Status.Capacity[corev1.ResourceStorage]; now.Cmp(was) < 0 && now.Cmp(have) <= 0 {
		errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, immutable(c.Annotations[corev1.BetaStorageClassAnnotation], old.Annotations[corev1.BetaStorageClassAnnotation],
		field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation))...)
	if old.Status.CurrentVolumeAttributesClassName != nil {
		switch p := specPath.Child("volumeAttributesClassName"); {
		case c.Spec.VolumeAttributesClassName == nil:
			errs = append(errs, field.Forbidden(p, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"))
		case *c.Spec.VolumeAttributesClassName == "":
			errs = append(errs, field.Forbidden(p, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"))
		}
	}
	return append(errs, immutable(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	for _, name := range sets.List(sets.KeySet(c.Status.Capacity)) {
		errs = append(errs, validateGranted(c.Status.Capacity[name], statusPath.Child("capacity").Key(string(name)))...)
	}
	statuses := statusPath.Child("allocatedResourceStatuses")
	for _, name := range sets.List(sets.KeySet(c.Status.AllocatedResourceStatuses)) {
		errs = append(errs, validateResizeResource(name, statuses)...)
		if s := c.Status.AllocatedResourceStatuses[name]; !slices.Contains(resizeStatuses, s) {
			errs = append(errs, field.NotSupported(statuses, corev1.ClaimResourceStatus(name), resizeStatuses)) // the name, not the status
		}
	}
	allocated := statusPath.Child("allocatedResources")
	for _, name := range sets.List(sets.KeySet(c.Status.AllocatedResources)) {
		if wrong := validateResizeResource(name, allocated); len(wrong) > 0 {
			errs = append(errs, wrong...)
			continue
		}
		errs = append(errs, validateGranted(c.Status.AllocatedResources[name], allocated.Key(string(name)))...)
	}
	return errs
}

// resizeStatuses are how far the resizing of a claim can be (KEP-1790).
var resizeStatuses = []corev1.ClaimResourceStatus{
	corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
	corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
}

// validateResizeResource checks the name of a resource that is resized:
// storage, or one of somebody's own.
func validateResizeResource(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := invalid(path, string(name), validation.IsQualifiedName(string(name))); len(errs) > 0 {
		return errs
	}
	native := !strings.Contains(string(name), "/") || strings.Contains(string(name), "kubernetes.io/")
	if native && name != corev1.ResourceStorage {
		return field.ErrorList{field.NotSupported(path, name, []corev1.ResourceName{corev1.ResourceStorage})}
	}
	return nil
}

func validateGranted(q resource.Quantity, path *field.Path) field.ErrorList {
	if n := q.Value(); n < 0 {
		return field.ErrorList{field.Invalid(path, n, "must be a valid resource quantity")}
	}
	return nil
}

func claimWarnings(c, _ *corev1.PersistentVolumeClaim) []string {
	var out []string
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		out = append(out, storageClassWarning)
	}
	return append(out, podspec.ClaimWarnings(&c.Spec, specPath)...)
}
