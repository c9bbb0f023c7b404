package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/coxswain/cox/api"
)

var deploymentParts = api.SpecStatus(func(o *appsv1.Deployment) (*appsv1.DeploymentSpec, *appsv1.DeploymentStatus) {
	return &o.Spec, &o.Status
})

func deploymentKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("Deployment")
	return &api.Kind{
		Hub: gvk, HubListKind: "DeploymentList",
		Resource: "deployments", Singular: "deployment",
		ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "deployments",
		New: api.New[appsv1.Deployment](), NewList: api.New[appsv1.DeploymentList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: deploymentParts.PrepareCreate, PrepareUpdate: deploymentParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: deploymentParts.PrepareStatus}},
		},
	}
}
