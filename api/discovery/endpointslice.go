package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/coxswain/cox/api"
)

func endpointSliceKind() *api.Kind {
	gvk := discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")
	return &api.Kind{
		Hub: gvk, HubListKind: "EndpointSliceList",
		Resource: "endpointslices", Singular: "endpointslice",
		Namespaced: true, Prefix: "endpointslices",
		New: api.New[discoveryv1.EndpointSlice](), NewList: api.New[discoveryv1.EndpointSliceList](),
		Views: api.Serve(gvk),
	}
}
