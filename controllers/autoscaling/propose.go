package autoscaling

import (
	"context"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// question is what every metric of an autoscaler is asked about.
type question struct {
	hpa      Autoscaler
	pods     []*corev1.Pod // those that the target's selector selects
	selector labels.Selector
	// observed is the target's size as it is, specified as it was asked for.
	observed, specified int32
	now                 time.Time
}

// propose asks one metric what size it wants.
func (c *Controller) propose(ctx context.Context, q *question, m *autoscalingv2.MetricSpec) Proposal {
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		p, v := c.resource(ctx, q, m.Resource.Name, "", m.Resource.Target)
		p.Status = autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: v}}
		return p
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		r := m.ContainerResource
		p, v := c.resource(ctx, q, r.Name, r.Container, r.Target)
		p.Status = autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: v}}
		return p
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		return c.perPod(ctx, q, m.Pods)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		return c.ofObject(ctx, q, m.Object)
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		return c.external(ctx, q, m.External)
	}
	return Proposal{Reason: "InvalidMetricSourceType", Lost: "invalid metric source", Err: fmt.Errorf("unknown metric source type %q", m.Type)}
}

func (c *Controller) resource(ctx context.Context, q *question, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget) (Proposal, autoscalingv2.MetricValueStatus) {
	p := Proposal{Name: string(name) + " resource", Reason: "FailedGetResourceMetric"}
	p.Lost = fmt.Sprintf("failed to get %s resource metric value", name)
	if container != "" {
		p.Lost = fmt.Sprintf("failed to get %s container metric value", name)
		p.Name, p.Reason = string(name)+" container resource", "FailedGetContainerResourceMetric"
	}
	if target.Type == autoscalingv2.UtilizationMetricType {
		p.Name += " utilization (percentage of request)"
	}
	samples, err := c.samples(ctx, q.hpa.Namespace, q.selector)
	var value autoscalingv2.MetricValueStatus
	if err != nil {
		err = fmt.Errorf("unable to get metrics for resource %s: %w", name, err)
	} else {
		p.Replicas, value, err = Resource(q.hpa, name, container, target, q.pods, samples, q.specified, q.now)
	}
	if err != nil {
		what := "usage"
		if target.Type == autoscalingv2.UtilizationMetricType {
			what = "utilization"
		}
		p.Err = fmt.Errorf("failed to get %s %s: %w", name, what, err)
	}
	return p, value
}

func (c *Controller) perPod(ctx context.Context, q *question, m *autoscalingv2.PodsMetricSource) Proposal {
	p := Proposal{Name: "pods metric " + m.Metric.Name, Reason: "FailedGetPodsMetric", Lost: "failed to get pods metric value"}
	values, err := c.podValues(ctx, q.hpa.Namespace, q.selector, m.Metric)
	var value autoscalingv2.MetricValueStatus
	if err != nil {
		p.Err = fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, err)
	} else {
		p.Replicas, value, p.Err = Pods(q.hpa, m.Target, q.pods, values, q.specified)
	}
	p.Status = autoscalingv2.MetricStatus{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: value}}
	return p
}

func (c *Controller) ofObject(ctx context.Context, q *question, m *autoscalingv2.ObjectMetricSource) Proposal {
	p := Proposal{Name: m.DescribedObject.Kind + " metric " + m.Metric.Name, Reason: "FailedGetObjectMetric", Lost: "failed to get object metric value"}
	amount, err := c.objectValue(ctx, q.hpa.Namespace, m.DescribedObject, m.Metric)
	var value autoscalingv2.MetricValueStatus
	if err == nil {
		p.Replicas, value, err = Total(q.hpa, m.Target, q.pods, amount, q.observed, q.specified)
	}
	if err != nil {
		p.Err = fmt.Errorf("unable to get metric %s: %s on %s %s: %w", m.Metric.Name, m.DescribedObject.Kind, q.hpa.Namespace, m.DescribedObject.Name, err)
	}
	p.Status = autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricStatus{Metric: m.Metric, DescribedObject: m.DescribedObject, Current: value}}
	return p
}

func (c *Controller) external(ctx context.Context, q *question, m *autoscalingv2.ExternalMetricSource) Proposal {
	name := fmt.Sprintf("%s/%s(%+v)", q.hpa.Namespace, m.Metric.Name, m.Metric.Selector)
	p := Proposal{Name: fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector), Reason: "FailedGetExternalMetric", Lost: fmt.Sprintf("failed to get %s external metric value", m.Metric.Name)}
	amount, err := c.externalValue(ctx, q.hpa.Namespace, m.Metric)
	var value autoscalingv2.MetricValueStatus
	if err == nil {
		p.Replicas, value, err = Total(q.hpa, m.Target, q.pods, amount, q.observed, q.specified)
	}
	if err != nil {
		p.Err = fmt.Errorf("unable to get external metric %s: %w", name, err)
	}
	p.Status = autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricStatus{Metric: m.Metric, Current: value}}
	return p
}
