package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/coxswain/cox/api"
)

var flowSchemaParts = api.SpecStatus(func(o *flowcontrolv1.FlowSchema) (*flowcontrolv1.FlowSchemaSpec, *flowcontrolv1.FlowSchemaStatus) {
	return &o.Spec, &o.Status
})

func flowSchemaKind() *api.Kind {
	gvk := flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema")
	return &api.Kind{
		Hub: gvk, HubListKind: "FlowSchemaList",
		Resource: "flowschemas", Singular: "flowschema",
		Prefix: "flowschemas",
		New:    api.New[flowcontrolv1.FlowSchema](), NewList: api.New[flowcontrolv1.FlowSchemaList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: flowSchemaParts.PrepareCreate, PrepareUpdate: flowSchemaParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: flowSchemaParts.PrepareStatus}},
		},
	}
}
