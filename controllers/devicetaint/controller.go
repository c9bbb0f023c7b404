package devicetaint

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/pods"
)

const workers = 8

// Controller evicts pods. Its queue's keys are claims.
type Controller struct {
	env    controllers.Env
	pods   client.Informer[*corev1.Pod]
	claims client.Informer[*resourcev1.ResourceClaim]
	slices client.Informer[*resourcev1.ResourceSlice]
	loop   *client.Loop

	mu     sync.Mutex
	taints Taints // nil is to be collected anew
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:    env,
		pods:   client.InformerFor(env.Informers, client.Pods),
		claims: client.InformerFor(env.Informers, client.ResourceClaims),
		slices: client.InformerFor(env.Informers, client.ResourceSlices),
	}
	c.loop = env.NewLoop("device-taint-eviction-controller", c.reconcile)
	if err := c.claims.AddIndex(poolIndex, pools); err != nil {
		return nil, err
	}
	if _, err := c.slices.OnChange(func(s, old *resourcev1.ResourceSlice) {
		c.forget()
		for _, o := range []*resourcev1.ResourceSlice{s, old} {
			if o == nil {
				continue
			}
			for _, claim := range c.claims.ByIndex(poolIndex, o.Spec.Driver+"/"+o.Spec.Pool.Name) {
				c.loop.AddObject(claim)
			}
		}
	}); err != nil {
		return nil, err
	}
	if _, err := c.pods.OnChange(func(p, old *corev1.Pod) {
		if p == nil || p.Spec.NodeName == "" || old != nil && old.Spec.NodeName != "" {
			return
		}
		for _, s := range p.Spec.ResourceClaims {
			if s.ResourceClaimName != nil {
				c.loop.Add(p.Namespace + "/" + *s.ResourceClaimName)
			}
		}
		for _, s := range p.Status.ResourceClaimStatuses {
			if s.ResourceClaimName != nil {
				c.loop.Add(p.Namespace + "/" + *s.ResourceClaimName)
			}
		}
		if e := p.Status.ExtendedResourceClaimStatus; e != nil {
			c.loop.Add(p.Namespace + "/" + e.ResourceClaimName)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.claims.OnChange(func(claim, _ *resourcev1.ResourceClaim) {
		if claim != nil && claim.Status.Allocation != nil && len(claim.Status.ReservedFor) > 0 {
			c.loop.AddObject(claim)
		}
	})
	return c, err
}

// poolIndex is the index of claims by the pools, "driver/pool", of their
// devices.
const poolIndex = "pools"

func pools(c *resourcev1.ResourceClaim) []string {
	if c.Status.Allocation == nil {
		return nil
	}
	var out []string
	for _, r := range c.Status.Allocation.Devices.Results {
		out = append(out, r.Driver+"/"+r.Pool)
	}
	return out
}

func (c *Controller) forget() {
	c.mu.Lock()
	c.taints = nil
	c.mu.Unlock()
}

// current are the taints as of now, collected once per change of slices.
func (c *Controller) current() Taints {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taints == nil {
		c.taints = Collect(c.slices.List("", nil))
	}
	return c.taints
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.GetKey(key)
	if !ok {
		return 0, nil
	}
	now := c.env.Clock.Now()
	at, ok := EvictAt(claim, c.current(), now)
	if !ok {
		return 0, nil
	}
	if wait := at.Sub(now); wait > 0 {
		return wait, nil
	}
	for _, r := range claim.Status.ReservedFor {
		p, ok := c.pods.Get(claim.Namespace, r.Name)
		if r.Resource != "pods" || !ok || p.UID != r.UID || p.Spec.NodeName == "" || p.DeletionTimestamp != nil || pods.Finished(p) {
			continue
		}
		if err := c.evict(ctx, p); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// evict says in the pod's status why it goes, then deletes it.
func (c *Controller) evict(ctx context.Context, p *corev1.Pod) error {
	c.env.Events.Event(p, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	in, m := client.Pods.In(c.env.Client, p.Namespace), p.DeepCopy()
	if pods.SetCondition(m, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation,
		Reason: "DeletionByDeviceTaintManager", Message: "Device Taint manager: deleting due to NoExecute taint",
		LastTransitionTime: metav1.NewTime(c.env.Clock.Now()),
	}) {
		patch, err := controllers.StatusPatch(p, m)
		if err != nil {
			return err
		}
		_, err = in.Patch(ctx, p.Name, patch.Type, patch.Data, client.Sub("status"))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("marking pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	err := in.Delete(ctx, p.Name, client.Exactly(p.UID))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	c.env.Counts.PodEvicted(true)
	return nil
}
