package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/coxswain/cox/api"
)

func leaseKind() *api.Kind {
	gvk := coordinationv1.SchemeGroupVersion.WithKind("Lease")
	return &api.Kind{
		Hub: gvk, HubListKind: "LeaseList",
		Resource: "leases", Singular: "lease",
		Namespaced: true, Prefix: "leases",
		New: api.New[coordinationv1.Lease](), NewList: api.New[coordinationv1.LeaseList](),
		Views: api.Serve(gvk),
	}
}
