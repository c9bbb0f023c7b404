package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/coxswain/cox/api"
)

var replicaSetParts = api.SpecStatus(func(o *appsv1.ReplicaSet) (*appsv1.ReplicaSetSpec, *appsv1.ReplicaSetStatus) {
	return &o.Spec, &o.Status
})

func replicaSetKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	return &api.Kind{
		Hub: gvk, HubListKind: "ReplicaSetList",
		Resource: "replicasets", Singular: "replicaset",
		ShortNames: []string{"rs"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "replicasets",
		New: api.New[appsv1.ReplicaSet](), NewList: api.New[appsv1.ReplicaSetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: replicaSetParts.PrepareCreate, PrepareUpdate: replicaSetParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: replicaSetParts.PrepareStatus}},
		},
	}
}
