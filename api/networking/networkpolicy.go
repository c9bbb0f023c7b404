package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/coxswain/cox/api"
)

func networkPolicyKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy")
	return &api.Kind{
		Hub: gvk, HubListKind: "NetworkPolicyList",
		Resource: "networkpolicies", Singular: "networkpolicy",
		ShortNames: []string{"netpol"},
		Namespaced: true, Prefix: "networkpolicies",
		New: api.New[networkingv1.NetworkPolicy](), NewList: api.New[networkingv1.NetworkPolicyList](),
		Views: api.Serve(gvk),
	}
}
