package autoscaling

import (
	"fmt"
	"strconv"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

var horizontalPodAutoscalerParts = api.SpecStatus(func(o *autoscalingv2.HorizontalPodAutoscaler) (*autoscalingv2.HorizontalPodAutoscalerSpec, *autoscalingv2.HorizontalPodAutoscalerStatus) {
	return &o.Spec, &o.Status
})

func horizontalPodAutoscalerKind() *api.Kind {
	gvk := autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	return &api.Kind{
		Hub: gvk, HubListKind: "HorizontalPodAutoscalerList",
		Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "horizontalpodautoscalers",
		New: api.New[autoscalingv2.HorizontalPodAutoscaler](), NewList: api.New[autoscalingv2.HorizontalPodAutoscalerList](),
		Views: append(api.Serve(gvk), v1View()),
		Strategy: api.Strategy{
			Default: api.On(defaultAutoscaler),
			PrepareCreate: api.On(func(a *autoscalingv2.HorizontalPodAutoscaler) {
				a.Status = autoscalingv2.HorizontalPodAutoscalerStatus{} // generations are not counted
			}),
			PrepareUpdate:  api.On2(func(a, old *autoscalingv2.HorizontalPodAutoscaler) { old.Status.DeepCopyInto(&a.Status) }),
			Validate:       api.Check(func(a *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList { return validateAutoscaler(a, nil) }),
			ValidateUpdate: api.Check2(validateAutoscaler),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate:  horizontalPodAutoscalerParts.PrepareStatus,
				ValidateUpdate: api.Check2(validateAutoscalerStatus),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Reference", spec["scaleTargetRef"]),
			printing.String("Targets", spec["metrics"]),
			printing.String("MinPods", spec["minReplicas"]),
			printing.String("MaxPods", spec["maxReplicas"]),
			printing.String("Replicas", status["currentReplicas"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(a *autoscalingv2.HorizontalPodAutoscaler) []any {
			least := printing.Unset
			if a.Spec.MinReplicas != nil {
				least = strconv.Itoa(int(*a.Spec.MinReplicas))
			}
			return []any{
				a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, targetsCell(a), least,
				int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), printing.Age(a.CreationTimestamp),
			}
		}),
	}
}

// targetsCell shows what each metric is and should be: "cpu: 10%/80%".
func targetsCell(a *autoscalingv2.HorizontalPodAutoscaler) string {
	if len(a.Spec.Metrics) == 0 {
		return printing.None
	}
	const shown = 2
	var list []string
	for i := range a.Spec.Metrics {
		var s *autoscalingv2.MetricStatus
		if i < len(a.Status.CurrentMetrics) {
			s = &a.Status.CurrentMetrics[i]
		}
		list = append(list, targetCell(&a.Spec.Metrics[i], s))
	}
	if len(list) > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ", "), len(list)-shown)
	}
	return strings.Join(list, ", ")
}

// targetCell shows one metric; s is its status or nil.
func targetCell(m *autoscalingv2.MetricSpec, s *autoscalingv2.MetricStatus) string {
	var current autoscalingv2.MetricValueStatus
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		if s != nil && s.External != nil {
			current = s.External.Current
		}
		return valueCell(&m.External.Target, &current)
	case autoscalingv2.PodsMetricSourceType:
		if s != nil && s.Pods != nil {
			current = s.Pods.Current
		}
		return quantity(current.AverageValue) + "/" + m.Pods.Target.AverageValue.String()
	case autoscalingv2.ObjectMetricSourceType:
		if s != nil && s.Object != nil {
			current = s.Object.Current
		}
		return valueCell(&m.Object.Target, &current)
	case autoscalingv2.ResourceMetricSourceType:
		if s != nil && s.Resource != nil {
			current = s.Resource.Current
		}
		return usageCell(m.Resource.Name, &m.Resource.Target, &current)
	case autoscalingv2.ContainerResourceMetricSourceType:
		if s != nil && s.ContainerResource != nil {
			current = s.ContainerResource.Current
		}
		return usageCell(m.ContainerResource.Name, &m.ContainerResource.Target, &current)
	}
	return "<unknown type>"
}

func valueCell(t *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return fmt.Sprintf("%s/%s (avg)", quantity(current.AverageValue), t.AverageValue.String())
	}
	return quantity(current.Value) + "/" + quantity(t.Value)
}

func usageCell(name corev1.ResourceName, t *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return fmt.Sprintf("%s: %s/%s", name, quantity(current.AverageValue), t.AverageValue.String())
	}
	now, want := printing.Unknown, "<auto>"
	if n := current.AverageUtilization; n != nil {
		now = fmt.Sprintf("%d%%", *n)
	}
	if n := t.AverageUtilization; n != nil {
		want = fmt.Sprintf("%d%%", *n)
	}
	return fmt.Sprintf("%s: %s/%s", name, now, want)
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return printing.Unknown
	}
	return q.String()
}

func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	s := &a.Spec
	api.DefaultPtr(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		target := int32(80)
		s.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &target},
			},
		}}
	}
	if s.Behavior == nil {
		return
	}
	api.DefaultPtr(&s.Behavior.ScaleUp, autoscalingv2.HPAScalingRules{})
	api.DefaultPtr(&s.Behavior.ScaleUp.StabilizationWindowSeconds, 0)
	defaultRules(s.Behavior.ScaleUp, []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	})
	api.DefaultPtr(&s.Behavior.ScaleDown, autoscalingv2.HPAScalingRules{})
	// How long to wait before scaling down is the controller's own default.
	defaultRules(s.Behavior.ScaleDown, []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	})
}

func defaultRules(r *autoscalingv2.HPAScalingRules, policies []autoscalingv2.HPAScalingPolicy) {
	api.DefaultPtr(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}
