package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/coxswain/cox/api"
)

var serviceCIDRParts = api.SpecStatus(func(o *networkingv1.ServiceCIDR) (*networkingv1.ServiceCIDRSpec, *networkingv1.ServiceCIDRStatus) {
	return &o.Spec, &o.Status
})

func serviceCIDRKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR")
	return &api.Kind{
		Hub: gvk, HubListKind: "ServiceCIDRList",
		Resource: "servicecidrs", Singular: "servicecidr",
		Prefix: "servicecidrs",
		New:    api.New[networkingv1.ServiceCIDR](), NewList: api.New[networkingv1.ServiceCIDRList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: serviceCIDRParts.PrepareCreate, PrepareUpdate: serviceCIDRParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: serviceCIDRParts.PrepareStatus}},
		},
	}
}
