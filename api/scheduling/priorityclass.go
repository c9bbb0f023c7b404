package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/coxswain/cox/api"
)

func priorityClassKind() *api.Kind {
	gvk := schedulingv1.SchemeGroupVersion.WithKind("PriorityClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "PriorityClassList",
		Resource: "priorityclasses", Singular: "priorityclass",
		ShortNames: []string{"pc"},
		Prefix:     "priorityclasses",
		New:        api.New[schedulingv1.PriorityClass](), NewList: api.New[schedulingv1.PriorityClassList](),
		Views: api.Serve(gvk),
	}
}
