package autoscaling

import (
	"encoding/json"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api"
)

// autoscaling/v1 knows one metric, the utilization of CPU; it carries all the
// rest in annotations, so that an object goes through a v1 client unharmed.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	statusesAnnotation   = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
)

func v1View() api.View {
	return api.View{
		GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		New:              api.New[autoscalingv1.HorizontalPodAutoscaler](),
		NewList:          api.New[autoscalingv1.HorizontalPodAutoscalerList](),
		ToHub: func(in runtime.Object) (runtime.Object, error) {
			return fromV1(in.(*autoscalingv1.HorizontalPodAutoscaler))
		},
		FromHub: func(in runtime.Object) (runtime.Object, error) {
			return toV1(in.(*autoscalingv2.HorizontalPodAutoscaler))
		},
	}
}

// fromV1 converts to the hub. An annotation of ours that is no JSON is dropped,
// as a user may have written anything there.
func fromV1(in *autoscalingv1.HorizontalPodAutoscaler) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	out := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	if n := in.Spec.TargetCPUUtilizationPercentage; n != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: n},
			},
		})
	}
	if n := in.Status.CurrentCPUUtilizationPercentage; n != nil {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, autoscalingv2.MetricStatus{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: n},
			},
		})
	}
	carried := map[string]func(text string){
		metricsAnnotation: func(text string) {
			var list []autoscalingv1.MetricSpec
			if json.Unmarshal([]byte(text), &list) != nil {
				return
			}
			for i := range list {
				out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&list[i]))
			}
		},
		statusesAnnotation: func(text string) {
			var list []autoscalingv1.MetricStatus
			if json.Unmarshal([]byte(text), &list) != nil {
				return
			}
			out.Status.CurrentMetrics = nil // the list has all of them, the field's included
			for i := range list {
				out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, statusFromV1(&list[i]))
			}
		},
		conditionsAnnotation: func(text string) {
			var list []autoscalingv2.HorizontalPodAutoscalerCondition
			if json.Unmarshal([]byte(text), &list) == nil {
				out.Status.Conditions = list
			}
		},
		behaviorAnnotation: func(text string) {
			// The keys are capitalized; JSON field names match in any case.
			var b autoscalingv2.HorizontalPodAutoscalerBehavior
			if json.Unmarshal([]byte(text), &b) == nil {
				out.Spec.Behavior = &b
			}
		},
	}
	rest := map[string]string{}
	for k, v := range in.Annotations {
		if take := carried[k]; take != nil {
			take(v)
		} else {
			rest[k] = v
		}
	}
	if len(rest) != len(in.Annotations) {
		out.Annotations = rest
	}
	return out, nil
}

// toV1 converts from the hub: the first CPU utilization becomes the spec's
// field, everything else annotations.
func toV1(in *autoscalingv2.HorizontalPodAutoscaler) (*autoscalingv1.HorizontalPodAutoscaler, error) {
	out := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	carry := map[string]any{}
	var metrics []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if r := m.Resource; m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU &&
			r.Target.AverageUtilization != nil && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		metrics = append(metrics, metricToV1(m))
	}
	if len(metrics) > 0 {
		carry[metricsAnnotation] = metrics
	}
	var statuses []autoscalingv1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		if r := m.Resource; m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU &&
			r.Current.AverageUtilization != nil && out.Status.CurrentCPUUtilizationPercentage == nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
		statuses = append(statuses, statusToV1(m))
	}
	if len(statuses) > 0 {
		carry[statusesAnnotation] = statuses
	}
	if len(in.Status.Conditions) > 0 {
		carry[conditionsAnnotation] = in.Status.Conditions
	}
	if in.Spec.Behavior != nil {
		carry[behaviorAnnotation] = capitalBehavior(in.Spec.Behavior)
	}
	if len(carry) == 0 {
		return out, nil
	}
	annotations := make(map[string]string, len(in.Annotations)+len(carry))
	for k, v := range in.Annotations {
		annotations[k] = v
	}
	for k, v := range carry {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("put %s into an annotation: %w", k, err)
		}
		annotations[k] = string(text)
	}
	out.Annotations = annotations
	return out, nil
}
