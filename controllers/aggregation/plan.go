// Package aggregation fills the ClusterRoles that gather others by label:
// roles in, the rules of those with an aggregation rule out.
package aggregation

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Rules are the rules of all that the role gathers, by the names of their
// roles, each once.
func Rules(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) []rbacv1.PolicyRule {
	var from []*rbacv1.ClusterRole
	for _, r := range all {
		if r.Name != role.Name && Gathers(role, r) {
			from = append(from, r)
		}
	}
	slices.SortFunc(from, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var out []rbacv1.PolicyRule
	for _, r := range from {
		for i := range r.Rules {
			if !slices.ContainsFunc(out, func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, r.Rules[i]) }) {
				out = append(out, *r.Rules[i].DeepCopy())
			}
		}
	}
	return out
}

// Gathers says that role takes its rules from another.
func Gathers(role, from *rbacv1.ClusterRole) bool {
	if role.AggregationRule == nil {
		return false
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err == nil && sel.Matches(labels.Set(from.Labels)) {
			return true
		}
	}
	return false
}
