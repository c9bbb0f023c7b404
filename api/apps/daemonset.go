package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/coxswain/cox/api"
)

var daemonSetParts = api.SpecStatus(func(o *appsv1.DaemonSet) (*appsv1.DaemonSetSpec, *appsv1.DaemonSetStatus) {
	return &o.Spec, &o.Status
})

func daemonSetKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	return &api.Kind{
		Hub: gvk, HubListKind: "DaemonSetList",
		Resource: "daemonsets", Singular: "daemonset",
		ShortNames: []string{"ds"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "daemonsets",
		New: api.New[appsv1.DaemonSet](), NewList: api.New[appsv1.DaemonSetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: daemonSetParts.PrepareCreate, PrepareUpdate: daemonSetParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: daemonSetParts.PrepareStatus}},
		},
	}
}
