package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func validateReview(r *authorizationv1.SubjectAccessReview) field.ErrorList {
	return append(validateSubject(&r.Spec), noMetadata(r.ObjectMeta)...)
}

func validateSelfReview(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
	return append(oneAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), noMetadata(r.ObjectMeta)...)
}

// validateLocalReview checks a review that is confined to one namespace.
func validateLocalReview(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	errs := validateSubject(&r.Spec)
	path := field.NewPath("spec")
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(path.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if a := r.Spec.NonResourceAttributes; a != nil {
		errs = append(errs, field.Invalid(path.Child("nonResourceAttributes"), a, "disallowed on this kind of request"))
	}
	if rest := r.ObjectMeta; !bare(rest, r.Namespace) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), rest, "must be empty except for namespace"))
	}
	return errs
}

func validateSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := oneAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

// oneAttributes wants a question about a resource or one about a path.
func oneAttributes(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) field.ErrorList {
	spec := field.NewPath("spec")
	switch {
	case resource != nil && path != nil:
		return field.ErrorList{field.Invalid(spec.Child("nonResourceAttributes"), path, "cannot be specified in combination with resourceAttributes")}
	case resource == nil && path == nil:
		return field.ErrorList{field.Invalid(spec.Child("resourceAttributes"), resource, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	case resource != nil:
		return checkSelectors(resource, spec.Child("resourceAttributes"))
	}
	return nil
}

func checkSelectors(res *authorizationv1.ResourceAttributes, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	selector := func(raw string, n int, p *field.Path) {
		switch {
		case raw != "" && n > 0:
			errs = append(errs, field.Invalid(p.Child("rawSelector"), raw, "may not specified at the same time as requirements"))
		case raw == "" && n == 0:
			errs = append(errs, field.Required(p.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", p)))
		}
	}
	if s, p := res.FieldSelector, p.Child("fieldSelector"); s != nil {
		selector(s.RawSelector, len(s.Requirements), p)
		for i, r := range s.Requirements {
			at := p.Child("requirements").Index(i)
			if r.Key == "" {
				errs = append(errs, field.Required(at.Child("key"), "must be specified"))
			}
			errs = append(errs, checkValues(string(r.Operator), len(r.Values), at.Child("values"))...)
		}
	}
	if s, p := res.LabelSelector, p.Child("labelSelector"); s != nil {
		selector(s.RawSelector, len(s.Requirements), p)
		for i, r := range s.Requirements {
			at := p.Child("requirements").Index(i)
			errs = append(errs, checkValues(string(r.Operator), len(r.Values), at.Child("values"))...)
			errs = append(errs, metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
		}
	}
	return errs
}

// checkValues checks how many values a requirement has. Operators that are not
// known are left to the authorizer.
func checkValues(operator string, n int, path *field.Path) field.ErrorList {
	switch operator {
	case "In", "NotIn":
		if n == 0 {
			return field.ErrorList{field.Required(path, "must be specified when `operator` is 'In' or 'NotIn'")}
		}
	case "Exists", "DoesNotExist":
		if n > 0 {
			return field.ErrorList{field.Forbidden(path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")}
		}
	}
	return nil
}

// noMetadata refuses metadata on what is never stored.
func noMetadata(m metav1.ObjectMeta) field.ErrorList {
	if bare(m, "") {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, "must be empty")}
}

// bare says that there is no metadata but the namespace; whose the fields are is
// filled in by the server.
func bare(m metav1.ObjectMeta, namespace string) bool {
	m.ManagedFields = nil
	return check.Equal(m, metav1.ObjectMeta{Namespace: namespace})
}
