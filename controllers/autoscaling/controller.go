package autoscaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 5

// Controller reconciles HorizontalPodAutoscalers, each every 15 seconds.
type Controller struct {
	env  controllers.Env
	find controllers.Discovery
	hpas client.Informer[*autoscalingv2.HorizontalPodAutoscaler]
	pods client.Informer[*corev1.Pod]
	loop *client.Loop
	ownW client.Writes

	mu      sync.Mutex
	history map[string]*remembered
}

type remembered struct {
	uid types.UID
	h   History
	due time.Time // when it is to be measured again
	gen int64
}

// New makes the controller and registers its handlers. find tells which
// resource a target's kind is.
func New(env controllers.Env, find controllers.Discovery) (*Controller, error) {
	c := &Controller{
		env: env, find: find, history: map[string]*remembered{},
		hpas: client.InformerFor(env.Informers, client.HorizontalPodAutoscalers),
		pods: client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = client.NewLoop("horizontalpodautoscaler", env.Log, c.reconcile)
	_, err := c.hpas.OnChange(func(h, old *autoscalingv2.HorizontalPodAutoscaler) {
		if h == nil {
			h = old
		}
		c.loop.AddObject(h)
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, workers) }

func (c *Controller) remember(key string, hpa *autoscalingv2.HorizontalPodAutoscaler) *remembered {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.history[key]
	if r == nil || r.uid != hpa.UID {
		r = &remembered{uid: hpa.UID}
		c.history[key] = r
	}
	return r
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	hpa, ok := c.hpas.GetKey(key)
	if !ok {
		c.ownW.Forget(key)
		c.mu.Lock()
		delete(c.history, key)
		c.mu.Unlock()
		return 0, nil
	}
	r, now := c.remember(key, hpa), c.env.Clock.Now()
	// Our own status write wakes us too; the next measure waits for its time.
	if left := r.due.Sub(now); left > 0 && r.gen == hpa.Generation {
		return left, nil
	}
	if !c.hpas.CaughtUp(&c.ownW, key) || hpa.DeletionTimestamp != nil {
		return 0, nil
	}
	st, err := c.sync(ctx, hpa, r, now)
	if err != nil {
		return 0, err
	}
	if err := c.writeStatus(ctx, key, hpa, st); err != nil {
		return 0, err
	}
	r.due, r.gen = now.Add(period), hpa.Generation
	return period, nil
}

func (c *Controller) sync(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, r *remembered, now time.Time) (autoscalingv2.HorizontalPodAutoscalerStatus, error) {
	fail := func(t autoscalingv2.HorizontalPodAutoscalerConditionType, reason string, err error, message string) autoscalingv2.HorizontalPodAutoscalerStatus {
		c.env.Events.Event(hpa, corev1.EventTypeWarning, reason, err.Error())
		st := *hpa.Status.DeepCopy()
		st.ObservedGeneration = &hpa.Generation
		SetCondition(&st, t, false, reason, message+err.Error(), now)
		return st
	}
	res, scale, err := c.scale(ctx, hpa)
	if err != nil {
		return fail(autoscalingv2.AbleToScale, "FailedGetScale", err, "the HPA controller was unable to get the target's current scale: "), nil
	}
	sel, err := labels.Parse(scale.Status.Selector)
	if err != nil || scale.Status.Selector == "" {
		return fail(autoscalingv2.ScalingActive, "InvalidSelector", errors.New("selector is required"), "the HPA target's scale is missing a selector: "), nil
	}
	var proposals []Proposal
	if scale.Spec.Replicas > 0 {
		covered := c.pods.List(hpa.Namespace, sel)
		for i := range hpa.Spec.Metrics {
			proposals = append(proposals, c.propose(ctx, hpa, &hpa.Spec.Metrics[i], covered, sel, scale.Spec.Replicas))
		}
	}
	plan := Make(hpa, scale.Status.Replicas, scale.Spec.Replicas, proposals, &r.h, now)
	if plan.Failed != nil {
		c.env.Events.Event(hpa, corev1.EventTypeWarning, plan.Failed.Reason, plan.Failed.Err.Error())
		c.env.Events.Eventf(hpa, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", "invalid metrics (%d invalid out of %d), first error is: %v", count(proposals), len(proposals), plan.Failed.Err)
	}
	if !plan.Rescale {
		return plan.Status, nil
	}
	m := scale.DeepCopy()
	m.Spec.Replicas = plan.Replicas
	_, err = c.env.Client.Do(ctx, &client.Request{Verb: client.Update, Resource: res, Namespace: hpa.Namespace, Name: m.Name, Subresource: "scale", Object: m})
	if err != nil {
		c.env.Events.Eventf(hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", plan.Replicas, plan.Reason, err)
		return fail(autoscalingv2.AbleToScale, "FailedUpdateScale", err, "the HPA controller was unable to update the target scale: "), nil
	}
	c.env.Events.Eventf(hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", plan.Replicas, plan.Reason)
	return plan.Status, nil
}

func count(ps []Proposal) (n int) {
	for i := range ps {
		if ps[i].Err != nil {
			n++
		}
	}
	return n
}

// scale reads the target's scale, whatever its kind.
func (c *Controller) scale(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler) (schema.GroupVersionResource, *autoscalingv1.Scale, error) {
	ref := hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return schema.GroupVersionResource{}, nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	all, err := c.find(ctx)
	for _, r := range all {
		if r.Group != gv.Group || r.Kind != ref.Kind {
			continue
		}
		res, err := c.env.Client.Do(ctx, &client.Request{Verb: client.Get, Resource: r.GroupVersionResource, Namespace: hpa.Namespace, Name: ref.Name, Subresource: "scale"})
		if err != nil {
			return r.GroupVersionResource, nil, err
		}
		s, ok := res.Object.(*autoscalingv1.Scale)
		if !ok {
			return r.GroupVersionResource, nil, fmt.Errorf("got %T for a scale", res.Object)
		}
		return r.GroupVersionResource, s, nil
	}
	if err == nil {
		err = fmt.Errorf("no matches for kind %q in group %q", ref.Kind, gv.Group)
	}
	return schema.GroupVersionResource{}, nil, fmt.Errorf("unable to determine resource for scale target reference: %w", err)
}

// propose asks one metric. The metrics that need a custom or external metrics
// API say that there is none.
func (c *Controller) propose(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, m *autoscalingv2.MetricSpec, covered []*corev1.Pod, sel labels.Selector, current int32) Proposal {
	resource := func(name corev1.ResourceName, container, reason string, target autoscalingv2.MetricTarget) (Proposal, autoscalingv2.MetricValueStatus) {
		p := Proposal{Name: string(name) + " resource", Reason: reason}
		if container != "" {
			p.Name = string(name) + " container resource"
		}
		if target.Type == autoscalingv2.UtilizationMetricType {
			p.Name += " utilization (percentage of request)"
		}
		samples, err := c.samples(ctx, hpa.Namespace, sel)
		var value autoscalingv2.MetricValueStatus
		if err == nil {
			p.Replicas, value, err = Resource(hpa, name, container, target, covered, samples, current)
		}
		if err != nil {
			p.Err = fmt.Errorf("failed to get %s usage: unable to get metrics for resource %s: %w", name, name, err)
		}
		return p, value
	}
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		p, v := resource(m.Resource.Name, "", "FailedGetResourceMetric", m.Resource.Target)
		p.Status = autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: v}}
		return p
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		p, v := resource(m.ContainerResource.Name, m.ContainerResource.Container, "FailedGetContainerResourceMetric", m.ContainerResource.Target)
		p.Status = autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{
			Name: m.ContainerResource.Name, Container: m.ContainerResource.Container, Current: v,
		}}
		return p
	case m.Type == autoscalingv2.PodsMetricSourceType:
		return Proposal{Reason: "FailedGetPodsMetric", Err: errors.New("unable to get metrics: no custom metrics API (custom.metrics.k8s.io) registered")}
	case m.Type == autoscalingv2.ObjectMetricSourceType:
		return Proposal{Reason: "FailedGetObjectMetric", Err: errors.New("unable to get metrics: no custom metrics API (custom.metrics.k8s.io) registered")}
	case m.Type == autoscalingv2.ExternalMetricSourceType:
		return Proposal{Reason: "FailedGetExternalMetric", Err: errors.New("unable to get metrics: no external metrics API (external.metrics.k8s.io) registered")}
	}
	return Proposal{Reason: "InvalidMetricSourceType", Err: fmt.Errorf("unknown metric source type %q", m.Type)}
}

// podMetrics is what is read of metrics.k8s.io/v1beta1 PodMetrics.
type podMetrics struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Containers []struct {
		Name  string              `json:"name"`
		Usage corev1.ResourceList `json:"usage"`
	} `json:"containers"`
}

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
		raw, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("reading pod metrics: %w", err)
		}
		var m podMetrics
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf("reading pod metrics: %w", err)
		}
		s := Sample{}
		for _, ct := range m.Containers {
			s[ct.Name] = ct.Usage
		}
		out[m.Metadata.Name] = s
	}
	return out, nil
}

func (c *Controller) writeStatus(ctx context.Context, key string, hpa *autoscalingv2.HorizontalPodAutoscaler, st autoscalingv2.HorizontalPodAutoscalerStatus) error {
	if apiequality.Semantic.DeepEqual(hpa.Status, st) {
		return nil
	}
	m := hpa.DeepCopy()
	m.Status = st
	got, err := client.HorizontalPodAutoscalers.In(c.env.Client, hpa.Namespace).UpdateStatus(ctx, m)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("updating status: %w", err)
	}
	c.ownW.Wrote(key, got)
	return nil
}
