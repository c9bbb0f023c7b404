package autoscaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
)

// podMetrics is what is read of metrics.k8s.io/v1beta1 PodMetrics.
type podMetrics struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Timestamp  metav1.Time     `json:"timestamp"`
	Window     metav1.Duration `json:"window"`
	Containers []struct {
		Name  string              `json:"name"`
		Usage corev1.ResourceList `json:"usage"`
	} `json:"containers"`
}

// metricValue is what is read of custom.metrics.k8s.io's MetricValue and of
// external.metrics.k8s.io's ExternalMetricValue.
type metricValue struct {
	DescribedObject struct {
		Name string `json:"name"`
	} `json:"describedObject"`
	Value resource.Quantity `json:"value"`
}

// read makes T of an object of any kind.
func read[T any](o runtime.Object) (out T, err error) {
	raw, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		err = fmt.Errorf("reading metrics: %w", err)
	}
	return out, err
}

// samples is what the selected pods use, by name. That of none is an error.
func (c *Controller) samples(ctx context.Context, namespace string, sel labels.Selector) (map[string]Sample, error) {
	res, err := c.env.Client.Do(ctx, &client.Request{
		Verb: client.List, Namespace: namespace, Options: client.Options{LabelSelector: sel},
		Resource: schema.GroupVersionResource{Group: "metrics.k8s.io", Version: "v1beta1", Resource: "pods"},
	})
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	out := map[string]Sample{}
	for _, o := range res.List.Items {
		m, err := read[podMetrics](o)
		if err != nil {
			return nil, err
		}
		s := Sample{Usage: map[string]corev1.ResourceList{}, At: m.Timestamp.Time, Window: m.Window.Duration}
		for _, ct := range m.Containers {
			s.Usage[ct.Name] = ct.Usage
		}
		out[m.Metadata.Name] = s
	}
	if len(out) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	return out, nil
}

// custom asks the custom metrics API, in the newest version that is served,
// for a metric of an object ("*": of those selected).
func (c *Controller) custom(ctx context.Context, namespace, resource, name string, sel labels.Selector, m autoscalingv2.MetricIdentifier) ([]metricValue, error) {
	q, err := parameters(m, "metricLabelSelector")
	if err != nil {
		return nil, err
	}
	if sel != nil {
		q.Set("labelSelector", sel.String())
	}
	var first error
	for _, version := range []string{"v1beta2", "v1beta1"} {
		values, err := c.values(ctx, &client.Request{
			Verb: client.Get, Namespace: namespace, Name: name, Subresource: m.Name, Options: client.Options{Query: q},
			Resource: schema.GroupVersionResource{Group: "custom.metrics.k8s.io", Version: version, Resource: resource},
		})
		if !apierrors.IsNotFound(err) {
			return values, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", first)
}

// parameters puts a metric's own selector into a query.
func parameters(m autoscalingv2.MetricIdentifier, key string) (url.Values, error) {
	q := url.Values{}
	if m.Selector == nil {
		return q, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(m.Selector)
	if err != nil {
		return nil, fmt.Errorf("the selector of metric %s: %w", m.Name, err)
	}
	q.Set(key, sel.String())
	return q, nil
}

func (c *Controller) values(ctx context.Context, req *client.Request) ([]metricValue, error) {
	res, err := c.env.Client.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	list, err := read[struct {
		Items []metricValue `json:"items"`
	}](res.Object)
	return list.Items, err
}

// podValues is a metric of the selected pods, by name, in thousandths.
func (c *Controller) podValues(ctx context.Context, namespace string, sel labels.Selector, m autoscalingv2.MetricIdentifier) (map[string]int64, error) {
	values, err := c.custom(ctx, namespace, "pods", "*", sel, m)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	out := make(map[string]int64, len(values))
	for _, v := range values {
		out[v.DescribedObject.Name] = milli(v.Value)
	}
	return out, nil
}

// objectValue is a metric of one object, in thousandths.
func (c *Controller) objectValue(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference, m autoscalingv2.MetricIdentifier) (int64, error) {
	r, err := c.resourceOf(ctx, ref)
	if err != nil {
		return 0, err
	}
	name := r.GroupResource().String()
	switch {
	case ref.Kind == "Namespace" && r.Group == "":
		// A namespace's metrics are a resource of its own in it.
		namespace, name, ref.Name = ref.Name, "metrics", m.Name
		m.Name = ""
	case !r.Namespaced:
		namespace = ""
	}
	values, err := c.custom(ctx, namespace, name, ref.Name, nil, m)
	if err != nil {
		return 0, err
	}
	if len(values) != 1 {
		return 0, fmt.Errorf("the custom metrics API returned %d values for one object", len(values))
	}
	return milli(values[0].Value), nil
}

// externalValue is the sum of a metric's series, in thousandths.
func (c *Controller) externalValue(ctx context.Context, namespace string, m autoscalingv2.MetricIdentifier) (int64, error) {
	q, err := parameters(m, "labelSelector")
	if err != nil {
		return 0, err
	}
	values, err := c.values(ctx, &client.Request{
		Verb: client.Get, Namespace: namespace, Options: client.Options{Query: q},
		Resource: schema.GroupVersionResource{Group: "external.metrics.k8s.io", Version: "v1beta1", Resource: m.Name},
	})
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(values) == 0 {
		return 0, errors.New("no metrics returned from external metrics API")
	}
	var sum int64
	for _, v := range values {
		sum = plus(sum, milli(v.Value))
	}
	return sum, nil
}
