package autoscaling

import (
	"context"
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

// Controller reconciles HorizontalPodAutoscalers, each once in a period.
type Controller struct {
	env  controllers.Env
	set  Settings
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
func New(env controllers.Env, find controllers.Discovery, set Settings) (*Controller, error) {
	c := &Controller{
		env: env, find: find, set: set, history: map[string]*remembered{},
		hpas: client.InformerFor(env.Informers, client.HorizontalPodAutoscalers),
		pods: client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("horizontalpodautoscaler", c.reconcile)
	_, err := c.hpas.OnChange(func(h, old *autoscalingv2.HorizontalPodAutoscaler) {
		if h == nil {
			h = old
		}
		c.loop.AddObject(h)
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

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
	r.due, r.gen = now.Add(c.set.SyncPeriod), hpa.Generation
	return c.set.SyncPeriod, nil
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
			q := question{hpa: Autoscaler{hpa, c.set}, pods: covered, selector: sel, observed: scale.Status.Replicas, specified: scale.Spec.Replicas, now: now}
			proposals = append(proposals, c.propose(ctx, &q, &hpa.Spec.Metrics[i]))
		}
	}
	plan := Make(Autoscaler{hpa, c.set}, scale.Status.Replicas, scale.Spec.Replicas, proposals, &r.h, now)
	if plan.Failed != nil {
		c.env.Events.Event(hpa, corev1.EventTypeWarning, plan.Failed.Reason, plan.Failed.Err.Error())
		c.env.Events.Eventf(hpa, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", "invalid metrics (%d invalid out of %d), first error is: %s: %v", count(proposals), len(proposals), plan.Failed.Lost, plan.Failed.Err)
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
	r, err := c.resourceOf(ctx, ref)
	if err != nil {
		return schema.GroupVersionResource{}, nil, fmt.Errorf("unable to determine resource for scale target reference: %w", err)
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

// resourceOf finds the resource of a referenced kind, in whatever version.
func (c *Controller) resourceOf(ctx context.Context, ref autoscalingv2.CrossVersionObjectReference) (controllers.Resource, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return controllers.Resource{}, fmt.Errorf("invalid API version in reference: %w", err)
	}
	all, err := c.find(ctx)
	for _, r := range all {
		if r.Group == gv.Group && r.Kind == ref.Kind {
			return r, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("no matches for kind %q in group %q", ref.Kind, gv.Group)
	}
	return controllers.Resource{}, err
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
