package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/coxswain/cox/api"
)

func ingressClassKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("IngressClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "IngressClassList",
		Resource: "ingressclasses", Singular: "ingressclass",
		Prefix: "ingressclasses",
		New:    api.New[networkingv1.IngressClass](), NewList: api.New[networkingv1.IngressClassList](),
		Views: api.Serve(gvk),
	}
}
