package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/coxswain/cox/api"
)

func ipAddressKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("IPAddress")
	return &api.Kind{
		Hub: gvk, HubListKind: "IPAddressList",
		Resource: "ipaddresses", Singular: "ipaddress",
		ShortNames: []string{"ip"},
		Prefix:     "ipaddresses",
		New:        api.New[networkingv1.IPAddress](), NewList: api.New[networkingv1.IPAddressList](),
		Views: api.Serve(gvk),
	}
}
