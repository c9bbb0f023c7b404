package plugins

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/quota"
	"github.com/coxswain/cox/apiserver/admission"
)

var quotaKinds = kinds{
	"apiserver.config.k8s.io/v1": "ResourceQuotaConfiguration", "resourcequota.admission.k8s.io/v1": "Configuration",
	"resourcequota.admission.k8s.io/v1beta1": "Configuration", "resourcequota.admission.k8s.io/v1alpha1": "Configuration",
}

// quotaConfig names what may be used only where a quota says how much.
type quotaConfig struct {
	Kind             string            `json:"kind"`
	APIVersion       string            `json:"apiVersion"`
	LimitedResources []limitedResource `json:"limitedResources"`
}

type limitedResource struct {
	APIGroup      string                                     `json:"apiGroup"`
	Resource      string                                     `json:"resource"`
	MatchContains []string                                   `json:"matchContains"`
	MatchScopes   []corev1.ScopedResourceSelectorRequirement `json:"matchScopes"`
}

func (c *quotaConfig) check() error {
	var errs field.ErrorList
	for i := range c.LimitedResources {
		if c.LimitedResources[i].Resource == "" {
			errs = append(errs, field.Required(field.NewPath("limitedResources").Index(i).Child("resource"), ""))
		}
	}
	return errs.ToAggregate()
}

// covered refuses a write that uses what is limited without a quota that
// bounds it.
func (c *quotaConfig) covered(a *admission.Attributes, all []*corev1.ResourceQuota, delta corev1.ResourceList) error {
	if len(c.LimitedResources) == 0 {
		return nil
	}
	gr := a.Resource.GroupResource()
	limited, scopes := sets.New[string](), []corev1.ScopedResourceSelectorRequirement{}
	for i := range c.LimitedResources {
		l := &c.LimitedResources[i]
		if (schema.GroupResource{Group: l.APIGroup, Resource: l.Resource}) != gr {
			continue
		}
		for name, q := range delta {
			if q.Sign() > 0 && slices.ContainsFunc(l.MatchContains, func(s string) bool { return strings.Contains(string(name), s) }) {
				limited.Insert(string(name))
			}
		}
		for _, s := range l.MatchScopes {
			if quota.Matches(scoped(s), a.Object) {
				scopes = append(scopes, s)
			}
		}
	}
	for _, q := range all {
		if !quota.Matches(q, a.Object) {
			continue
		}
		for name := range q.Spec.Hard {
			limited.Delete(string(name))
		}
		if q.Spec.ScopeSelector == nil {
			continue
		}
		for _, have := range q.Spec.ScopeSelector.MatchExpressions {
			scopes = slices.DeleteFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool {
				return s.ScopeName == have.ScopeName && quota.Matches(scoped(have), a.Object)
			})
		}
	}
	if len(limited) > 0 {
		return forbid(a, fmt.Sprintf("insufficient quota to consume: %v", strings.Join(sets.List(limited), ",")))
	}
	if len(scopes) > 0 {
		return unreasoned(fmt.Sprintf("insufficient quota to match these scopes: %v", scopes))
	}
	return nil
}

// scoped is a quota of one scope.
func scoped(s corev1.ScopedResourceSelectorRequirement) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{
		ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{s}},
	}}
}
