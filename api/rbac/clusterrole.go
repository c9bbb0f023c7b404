package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
)

func clusterRoleKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("ClusterRole")
	return &api.Kind{
		Hub: gvk, HubListKind: "ClusterRoleList",
		Resource: "clusterroles", Singular: "clusterrole",
		Prefix: "clusterroles",
		New:    api.New[rbacv1.ClusterRole](), NewList: api.New[rbacv1.ClusterRoleList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Validate:            api.Check(func(r *rbacv1.ClusterRole) field.ErrorList { return validateClusterRole(r, nil) }),
			ValidateUpdate:      api.Check2(validateClusterRole),
			ValidateName:        validateName,
			AllowCreateOnUpdate: true,
		},
		Columns: roleColumns(),
		Cells:   api.Cells(func(r *rbacv1.ClusterRole) []any { return []any{r.Name, createdAt(r.CreationTimestamp)} }),
	}
}

// validateClusterRole checks rules and aggregation; old is nil for a new
// object.
func validateClusterRole(r, old *rbacv1.ClusterRole) field.ErrorList {
	errs := validateRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	var stored *metav1.LabelSelector
	if old != nil && old.AggregationRule != nil {
		for i := range old.AggregationRule.ClusterRoleSelectors {
			if s := &old.AggregationRule.ClusterRoleSelectors[i]; check.InvalidSelectorValue(s) {
				stored = s
			}
		}
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		s := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, check.LabelSelector(s, stored, path.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
			errs = append(errs, field.Invalid(path.Index(i), nil, "invalid label selector."))
		}
	}
	return errs
}
