package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateClaimSpec checks the spec of a persistent volume claim or a
// template of one.
func ValidateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), "at least 1 access mode is required"))
	}
	errs = append(errs, ValidateLabelSelector(spec.Selector, false, path.Child("selector"))...)
	errs = append(errs, ValidateAccessModes(spec.AccessModes, path.Child("accessModes"))...)
	storage := path.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := spec.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(storage, ""))
	} else {
		errs = append(errs, ValidatePositive(q, storage)...)
	}
	if c := spec.StorageClassName; c != nil && *c != "" {
		errs = append(errs, invalid(path.Child("storageClassName"), *c, apivalidation.NameIsDNSSubdomain(*c, false))...)
	}
	if m := spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeBlock && *m != corev1.PersistentVolumeFilesystem {
		errs = append(errs, field.NotSupported(path.Child("volumeMode"), *m, []corev1.PersistentVolumeMode{corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem}))
	}
	errs = append(errs, validateDataSources(spec, path)...)
	if c := spec.VolumeAttributesClassName; c != nil && *c != "" {
		errs = append(errs, invalid(path.Child("volumeAttributesClassName"), *c, apivalidation.NameIsDNSSubdomain(*c, false))...)
	}
	return errs
}

// ValidatePositive checks that a quantity is above zero.
func ValidatePositive(q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(path, q.String(), "must be greater than zero")}
	}
	return nil
}

// ValidateAccessModes checks the access modes of a volume or claim.
func ValidateAccessModes(modes []corev1.PersistentVolumeAccessMode, path *field.Path) field.ErrorList {
	valid := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	var errs field.ErrorList
	for _, m := range modes {
		if !slices.Contains(valid, m) {
			errs = append(errs, field.NotSupported(path, m, valid))
		}
	}
	if len(modes) > 1 && slices.Contains(modes, corev1.ReadWriteOncePod) && !slices.Equal(modes, slices.Repeat([]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}, len(modes))) {
		errs = append(errs, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func validateDataSources(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(group *string, kind, name string, p *field.Path) {
		errs = append(errs, required(name, p.Child("name"))...)
		errs = append(errs, required(kind, p.Child("kind"))...)
		switch {
		case (group == nil || *group == "") && kind != "PersistentVolumeClaim":
			errs = append(errs, field.Invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		case group != nil && *group != "":
			errs = append(errs, invalid(p.Child("apiGroup"), *group, validation.IsDNS1123Subdomain(*group))...)
		}
	}
	if s := spec.DataSource; s != nil {
		check(s.APIGroup, s.Kind, s.Name, path.Child("dataSource"))
	}
	if s := spec.DataSourceRef; s != nil {
		check(s.APIGroup, s.Kind, s.Name, path.Child("dataSourceRef"))
		if s.Namespace != nil && *s.Namespace != "" {
			errs = append(errs, invalid(path.Child("dataSourceRef", "namespace"), *s.Namespace, apivalidation.ValidateNamespaceName(*s.Namespace, false))...)
			if spec.DataSource != nil {
				errs = append(errs, field.Invalid(path, path.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
			}
		} else if d := spec.DataSource; d != nil {
			same := corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
			other := corev1.TypedObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
			if !apiequality.Semantic.DeepEqual(same, other) {
				errs = append(errs, field.Invalid(path, path.Child("dataSource"), "must match dataSourceRef"))
			}
		}
	}
	return errs
}

// ClaimName is the claim behind a pod's volume: its own, or the one that is
// made for the pod; "" if there is none.
func ClaimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// ClaimNames are the claims behind a pod's volumes.
func ClaimNames(pod *corev1.Pod) []string {
	var out []string
	for i := range pod.Spec.Volumes {
		if name := ClaimName(pod, &pod.Spec.Volumes[i]); name != "" {
			out = append(out, name)
		}
	}
	return out
}
