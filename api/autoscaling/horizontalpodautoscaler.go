package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"github.com/coxswain/cox/api"
)

var horizontalPodAutoscalerParts = api.SpecStatus(func(o *autoscalingv2.HorizontalPodAutoscaler) (*autoscalingv2.HorizontalPodAutoscalerSpec, *autoscalingv2.HorizontalPodAutoscalerStatus) {
	return &o.Spec, &o.Status
})

func horizontalPodAutoscalerKind() *api.Kind {
	gvk := autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")
	return &api.Kind{
		Hub: gvk, HubListKind: "HorizontalPodAutoscalerList",
		Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "horizontalpodautoscalers",
		New: api.New[autoscalingv2.HorizontalPodAutoscaler](), NewList: api.New[autoscalingv2.HorizontalPodAutoscalerList](),
		Views: append(api.Serve(gvk), v1View()),
		Strategy: api.Strategy{
			PrepareCreate: horizontalPodAutoscalerParts.PrepareCreate, PrepareUpdate: horizontalPodAutoscalerParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: horizontalPodAutoscalerParts.PrepareStatus}},
		},
	}
}
