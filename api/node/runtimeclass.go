package node

import (
	nodev1 "k8s.io/api/node/v1"

	"github.com/coxswain/cox/api"
)

func runtimeClassKind() *api.Kind {
	gvk := nodev1.SchemeGroupVersion.WithKind("RuntimeClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "RuntimeClassList",
		Resource: "runtimeclasses", Singular: "runtimeclass",
		Prefix: "runtimeclasses",
		New:    api.New[nodev1.RuntimeClass](), NewList: api.New[nodev1.RuntimeClassList](),
		Views: api.Serve(gvk),
	}
}
