// Package podspec sets the defaults of pod specs and pod templates and checks
// them, for the pod kind and for every kind that carries a template. Specs
// flow in; they leave defaulted, or as a list of errors with upstream's
// fields, types and texts. Nothing here reads other objects.
package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
)

// Options relax a validation for what is stored already: upstream tightens
// rules only for new content. The zero value is for a new object.
type Options struct {
	// Old is the stored spec that this one replaces, nil for a new one.
	Old *corev1.PodSpec
	// Template says that the spec stands in a template of a workload and not
	// in a pod.
	Template bool
	// InvalidSelectorValues accepts label selectors in affinity terms and
	// spread constraints whose values are no label values.
	InvalidSelectorValues bool
	// RestartPolicies names the restart policies accepted; nil means all.
	RestartPolicies []corev1.RestartPolicy
	// Owner is the kind of the workload, as an error names it; "" means
	// ReplicaSet.
	Owner string
	// StoredSelectors accepts spread constraints that name a matchLabelKey
	// also set in the label selector, as the API server itself merges them.
	StoredSelectors bool
}

func (o *Options) owner() string {
	if o.Owner == "" {
		return "ReplicaSet"
	}
	return o.Owner
}

// ForUpdate returns the options for replacing old.
func ForUpdate(old *corev1.PodSpec) Options {
	return Options{Old: old, InvalidSelectorValues: old != nil && hasInvalidSelectorValue(old), StoredSelectors: true}
}

// ValidateTemplate checks a pod template: labels, annotations and the spec.
// path is that of the template. Ephemeral containers are refused.
func ValidateTemplate(t *corev1.PodTemplateSpec, path *field.Path, opts Options) field.ErrorList {
	opts.Template = true
	var errs field.ErrorList
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, path.Child("labels"))...)
	errs = append(errs, validateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, validatePodAnnotations(t.Annotations, &t.Spec, path.Child("annotations"))...)
	errs = append(errs, Validate(&t.Spec, &t.ObjectMeta, path.Child("spec"), opts)...)
	if opts.Old == nil {
		errs = append(errs, ProfilesAgree(t.Annotations, &t.Spec, path.Child("spec"))...)
	}
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidateTemplateFor checks the template of a ReplicationController,
// ReplicaSet, Deployment or StatefulSet: that the selector matches the
// template's labels, the template itself, restart policy Always, and no
// deadline. selector may be nil, replicas is the wanted number.
func ValidateTemplateFor(t *corev1.PodTemplateSpec, selector labels.Selector, replicas int32, path *field.Path, opts Options) field.ErrorList {
	if t == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if selector != nil && !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, ValidateTemplate(t, path, opts)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+opts.owner()+" is not Supported"))
	}
	return errs
}

// ValidateLabelSelector checks a label selector; stored says that invalid
// values are kept because they were stored before.
func ValidateLabelSelector(s *metav1.LabelSelector, stored bool, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: stored}, path)
}
