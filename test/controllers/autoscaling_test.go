package controllers_test

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// Without a metrics API an autoscaler says so, and still keeps its target
// within bounds.
func TestAutoscalerWithoutMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("scale"), t.Context()
	_, err := client.Deployments.In(w.root, ns).Create(ctx, deployment(ns, "web", "v1", 2))
	w.must(err)
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	h.Spec.MinReplicas, h.Spec.MaxReplicas = ptr.To[int32](1), 5
	h.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
	}}}
	hpas := client.HorizontalPodAutoscalers.In(w.root, ns)
	_, err = hpas.Create(ctx, h)
	w.must(err)
	object(w, client.HorizontalPodAutoscalers, ns, "web", "without metrics", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return slices.ContainsFunc(h.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
			return c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionFalse && c.Reason == "FailedGetResourceMetric"
		})
	})
	_, err = hpas.Mutate(ctx, "web", "", func(h *autoscalingv2.HorizontalPodAutoscaler) (bool, error) {
		h.Spec.MinReplicas = ptr.To[int32](4)
		return true, nil
	})
	w.must(err)
	object(w, client.Deployments, ns, "web", "of four", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 4 })
	object(w, client.HorizontalPodAutoscalers, ns, "web", "rescaled", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return h.Status.DesiredReplicas == 4 && h.Status.LastScaleTime != nil
	})
}
