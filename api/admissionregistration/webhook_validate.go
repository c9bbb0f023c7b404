package admissionregistration

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

func validateWebhooks(hooks, old []admissionv1.MutatingWebhook) field.ErrorList {
	path := field.NewPath("webhooks")
	var errs field.ErrorList
	names := map[string]bool{}
	lax := len(old) > 0 && !recognized(old)
	stored := conditionsOf(old)
	for i := range hooks {
		w, at := &hooks[i], path.Index(i)
		errs = append(errs, validateWebhook(w, stored, at)...)
		errs = append(errs, reviewVersions(w.AdmissionReviewVersions, !lax, at.Child("admissionReviewVersions"))...)
		if w.Name != "" {
			if names[w.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), w.Name))
			}
			names[w.Name] = true
		}
	}
	return errs
}

// recognized says that every webhook accepts a review version of ours.
func recognized(hooks []admissionv1.MutatingWebhook) bool {
	for i := range hooks {
		if !slices.ContainsFunc(hooks[i].AdmissionReviewVersions, known) {
			return false
		}
	}
	return true
}

func known(v string) bool { return v == "v1" || v == "v1beta1" }

func reviewVersions(versions []string, need bool, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		errs = append(errs, check.Each(path.Index(i), v, validation.IsDNS1035Label(v))...)
	}
	if need && !slices.ContainsFunc(versions, known) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

func validateWebhook(w *admissionv1.MutatingWebhook, stored map[string]bool, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, validateRule(&w.Rules[i], path.Child("rules").Index(i))...)
	}
	if w.FailurePolicy != nil {
		errs = append(errs, check.OneOf(*w.FailurePolicy, path.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	}
	if w.MatchPolicy != nil {
		errs = append(errs, check.OneOf(*w.MatchPolicy, path.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, check.OneOf(*w.SideEffects, path.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	}
	if t := w.TimeoutSeconds; t != nil && (*t < 1 || *t > 30) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	if w.ReinvocationPolicy != nil {
		errs = append(errs, reinvocation(*w.ReinvocationPolicy, path)...)
	}
	errs = append(errs, selector(w.NamespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, selector(w.ObjectSelector, path.Child("objectSelector"))...)
	errs = append(errs, validateClient(&w.ClientConfig, path.Child("clientConfig"))...)
	return append(errs, validateConditions(w.MatchConditions, scopes{}, stored, path.Child("matchConditions"))...)
}

func reinvocation(p admissionv1.ReinvocationPolicyType, path *field.Path) field.ErrorList {
	return check.OneOf(p, path.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
}

func selector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	return check.LabelSelector(s, nil, path)
}

func validateClient(c *admissionv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	var service *check.WebhookService
	if s := c.Service; s != nil {
		service = &check.WebhookService{Namespace: s.Namespace, Name: s.Name, Path: s.Path, Port: s.Port}
	}
	return check.Webhook(c.URL, service, path)
}
