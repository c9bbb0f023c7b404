package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

var podDisruptionBudgetParts = api.SpecStatus(func(o *policyv1.PodDisruptionBudget) (*policyv1.PodDisruptionBudgetSpec, *policyv1.PodDisruptionBudgetStatus) {
	return &o.Spec, &o.Status
})

func podDisruptionBudgetKind() *api.Kind {
	gvk := policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget")
	return &api.Kind{
		Hub: gvk, HubListKind: "PodDisruptionBudgetList",
		Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget",
		ShortNames: []string{"pdb"},
		Namespaced: true, Prefix: "poddisruptionbudgets",
		New: api.New[policyv1.PodDisruptionBudget](), NewList: api.New[policyv1.PodDisruptionBudgetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			AnyFinalizer:  true,
			PrepareCreate: podDisruptionBudgetParts.PrepareCreate, PrepareUpdate: podDisruptionBudgetParts.PrepareUpdate,
			Validate:                  api.Check(func(b *policyv1.PodDisruptionBudget) field.ErrorList { return validateBudget(b, nil) }),
			ValidateUpdate:            api.Check2(validateBudget),
			ForbidUnconditionalUpdate: true,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				ForbidUnconditionalUpdate: true,
				PrepareUpdate:             podDisruptionBudgetParts.PrepareStatus,
				ValidateUpdate:            api.Check2(validateBudgetStatus),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Min Available", "The minimum number of pods that must be available."),
			printing.String("Max Unavailable", "The maximum number of pods that may be unavailable."),
			printing.Integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(b *policyv1.PodDisruptionBudget) []any {
			return []any{
				b.Name, amountCell(b.Spec.MinAvailable), amountCell(b.Spec.MaxUnavailable),
				int64(b.Status.DisruptionsAllowed), printing.Age(b.CreationTimestamp),
			}
		}),
	}
}

func amountCell(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

// validateBudget checks the spec; old is nil for a new object.
func validateBudget(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	s, path := &b.Spec, field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, v := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if v.value != nil {
			errs = append(errs, check.IntOrPercent(*v.value, path.Child(v.name))...)
			errs = append(errs, check.AtMost100Percent(*v.value, path.Child(v.name))...)
		}
	}
	var oldSelector *metav1.LabelSelector
	if old != nil {
		oldSelector = old.Spec.Selector
	}
	errs = append(errs, check.LabelSelector(s.Selector, oldSelector, path.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, check.OneOf(*p, path.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	s, path := &b.Status, field.NewPath("status")
	errs := metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))
	errs = append(errs, check.NonNegative(s.DisruptionsAllowed, path.Child("disruptionsAllowed"))...)
	errs = append(errs, check.NonNegative(s.CurrentHealthy, path.Child("currentHealthy"))...)
	errs = append(errs, check.NonNegative(s.DesiredHealthy, path.Child("desiredHealthy"))...)
	return append(errs, check.NonNegative(s.ExpectedPods, path.Child("expectedPods"))...)
}
