package policy

import (
	policyv1 "k8s.io/api/policy/v1"

	"github.com/coxswain/cox/api"
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
			PrepareCreate: podDisruptionBudgetParts.PrepareCreate, PrepareUpdate: podDisruptionBudgetParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: podDisruptionBudgetParts.PrepareStatus}},
		},
	}
}
