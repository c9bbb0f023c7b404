package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks the spec of a pod or template whose metadata is meta. path
// is that of the spec.
func Validate(spec *corev1.PodSpec, meta *metav1.ObjectMeta, path *field.Path, opts Options) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("containers"), ""))
	}
	return errs
}

// ValidateContainers, ValidateClaimSpec and so on are used by other kinds too.

func hasInvalidSelectorValue(spec *corev1.PodSpec) bool { return false }

func validateAnnotations(a map[string]string, path *field.Path) field.ErrorList { return nil }

func validatePodAnnotations(a map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	return nil
}

func validateReadOnlyDisks(v []corev1.Volume, path *field.Path) field.ErrorList { return nil }

// ValidateResourceRequirements checks a container's resources.
func ValidateResourceRequirements(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	return nil
}

// ValidateProbe checks a probe; nil is fine.
func ValidateProbe(p *corev1.Probe, path *field.Path) field.ErrorList { return nil }

// ValidateContainerPorts checks the ports of one container.
func ValidateContainerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	return nil
}

// ValidateTolerations checks a list of tolerations.
func ValidateTolerations(t []corev1.Toleration, path *field.Path) field.ErrorList { return nil }

// ValidateNodeSelector checks a node selector with its terms.
func ValidateNodeSelector(s *corev1.NodeSelector, path *field.Path) field.ErrorList { return nil }

// ValidateTopologySelectorTerms checks the allowedTopologies of a storage class.
func ValidateTopologySelectorTerms(t []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	return nil
}

// ValidateClaimSpec checks the spec of a persistent volume claim or a
// template of one.
func ValidateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	return nil
}

// Warnings returns the deprecation and usage warnings about a template or
// pod; old is nil on create.
func Warnings(t, old *corev1.PodTemplateSpec, path *field.Path) []string { return nil }

// DropDisabled clears the fields of features that 1.36 has off by default,
// unless old (may be nil) uses them.
func DropDisabled(spec, old *corev1.PodSpec) {}
