package podspec

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateAnnotations(a map[string]string, path *field.Path) field.ErrorList {
	return apivalidation.ValidateAnnotations(a, path)
}

// ValidatePodAnnotations checks those annotations of a pod that the system
// gives a meaning.
func ValidatePodAnnotations(a map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	return validatePodAnnotations(a, spec, path)
}

func validatePodAnnotations(a map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v, mirror := a[corev1.MirrorPodAnnotationKey]; mirror && spec.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v, ok := a[corev1.PodDeletionCost]; ok && !isDeletionCost(v) {
		errs = append(errs, field.Invalid(path.Key(corev1.PodDeletionCost), v, "must be a 32bit integer"))
	}
	for key, profile := range a {
		container, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		p := path.Key(key)
		if !hasContainer(spec, container) {
			errs = append(errs, field.Invalid(p, container, "container not found"))
		}
		if profile != "" && profile != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && profile != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(profile, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			errs = append(errs, field.Invalid(p, profile, "invalid AppArmor profile name: "+strconv.Quote(profile)))
		}
	}
	return append(errs, seccompAnnotations(a, path)...)
}

// isDeletionCost accepts what the ReplicaSet controller can read: no plus
// sign, no leading zeros.
func isDeletionCost(v string) bool {
	n, err := strconv.ParseInt(v, 10, 32)
	return err == nil && strconv.FormatInt(n, 10) == v
}

func hasContainer(spec *corev1.PodSpec, name string) bool {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	for i := range spec.EphemeralContainers {
		if spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}
