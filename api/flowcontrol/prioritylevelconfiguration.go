package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/coxswain/cox/api"
)

var priorityLevelConfigurationParts = api.SpecStatus(func(o *flowcontrolv1.PriorityLevelConfiguration) (*flowcontrolv1.PriorityLevelConfigurationSpec, *flowcontrolv1.PriorityLevelConfigurationStatus) {
	return &o.Spec, &o.Status
})

func priorityLevelConfigurationKind() *api.Kind {
	gvk := flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration")
	return &api.Kind{
		Hub: gvk, HubListKind: "PriorityLevelConfigurationList",
		Resource: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration",
		Prefix: "prioritylevelconfigurations",
		New:    api.New[flowcontrolv1.PriorityLevelConfiguration](), NewList: api.New[flowcontrolv1.PriorityLevelConfigurationList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: priorityLevelConfigurationParts.PrepareCreate, PrepareUpdate: priorityLevelConfigurationParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: priorityLevelConfigurationParts.PrepareStatus}},
		},
	}
}
