package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/coxswain/cox/api"
)

var statefulSetParts = api.SpecStatus(func(o *appsv1.StatefulSet) (*appsv1.StatefulSetSpec, *appsv1.StatefulSetStatus) {
	return &o.Spec, &o.Status
})

func statefulSetKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	return &api.Kind{
		Hub: gvk, HubListKind: "StatefulSetList",
		Resource: "statefulsets", Singular: "statefulset",
		ShortNames: []string{"sts"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "statefulsets",
		New: api.New[appsv1.StatefulSet](), NewList: api.New[appsv1.StatefulSetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: statefulSetParts.PrepareCreate, PrepareUpdate: statefulSetParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: statefulSetParts.PrepareStatus}},
		},
	}
}
