package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/coxswain/cox/api"
)

func controllerRevisionKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("ControllerRevision")
	return &api.Kind{
		Hub: gvk, HubListKind: "ControllerRevisionList",
		Resource: "controllerrevisions", Singular: "controllerrevision",
		Namespaced: true, Prefix: "controllerrevisions",
		New: api.New[appsv1.ControllerRevision](), NewList: api.New[appsv1.ControllerRevisionList](),
		Views: api.Serve(gvk),
	}
}
