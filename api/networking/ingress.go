package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/coxswain/cox/api"
)

var ingressParts = api.SpecStatus(func(o *networkingv1.Ingress) (*networkingv1.IngressSpec, *networkingv1.IngressStatus) {
	return &o.Spec, &o.Status
})

func ingressKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("Ingress")
	return &api.Kind{
		Hub: gvk, HubListKind: "IngressList",
		Resource: "ingresses", Singular: "ingress",
		ShortNames: []string{"ing"},
		Namespaced: true, Prefix: "ingress",
		New: api.New[networkingv1.Ingress](), NewList: api.New[networkingv1.IngressList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: ingressParts.PrepareCreate, PrepareUpdate: ingressParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: ingressParts.PrepareStatus}},
		},
	}
}
