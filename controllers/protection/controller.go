package protection

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 2

// Claims protects claims.
type Claims struct {
	env    controllers.Env
	claims client.Informer[*corev1.PersistentVolumeClaim]
	pods   client.Informer[*corev1.Pod]
	loop   *client.Loop
}

// NewClaims makes the controller of claims and registers its handlers.
func NewClaims(env controllers.Env) (*Claims, error) {
	c := &Claims{
		env:    env,
		claims: client.InformerFor(env.Informers, client.PersistentVolumeClaims),
		pods:   client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("pvcprotection", c.reconcile)
	if err := c.pods.AddIndex(controllers.ClaimIndex, controllers.ClaimKeys); err != nil {
		return nil, err
	}
	if _, err := c.claims.OnChange(func(claim, _ *corev1.PersistentVolumeClaim) {
		if claim != nil && (claim.DeletionTimestamp != nil || !slices.Contains(claim.Finalizers, ClaimFinalizer)) {
			c.loop.AddObject(claim)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.pods.OnChange(func(pod, old *corev1.Pod) {
		// Only a pod that went, or that its node is done with, or another in its
		// place, can free a claim.
		if old == nil || pod != nil && pod.UID == old.UID && shutDown(pod) == shutDown(old) {
			return
		}
		for _, key := range controllers.ClaimKeys(old) {
			if claim, ok := c.claims.GetKey(key); ok && claim.DeletionTimestamp != nil {
				c.loop.Add(key)
			}
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Claims) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Claims) reconcile(ctx context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.GetKey(key)
	if !ok {
		return 0, nil
	}
	var failed error
	a := planFinalizer(claim, ClaimFinalizer, func() bool {
		used, err := c.inUse(ctx, claim)
		failed = err
		return used || err != nil
	})
	if failed != nil {
		return 0, fmt.Errorf("listing the pods that may use claim %s: %w", key, failed)
	}
	return 0, write(ctx, client.PersistentVolumeClaims.In(c.env.Client, claim.Namespace), claim, a, ClaimFinalizer)
}

// inUse asks the informer first and the API server only when it knows of no
// user: the informer may lag behind a binding.
func (c *Claims) inUse(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	uses := func(p *corev1.Pod) bool { return Uses(p, claim) }
	if slices.ContainsFunc(c.pods.ByIndex(controllers.ClaimIndex, claim.Namespace+"/"+claim.Name), uses) {
		return true, nil
	}
	pods, _, err := client.Pods.In(c.env.Client, claim.Namespace).List(ctx, client.Options{})
	return slices.ContainsFunc(pods, uses), err
}

// Volumes protects volumes.
type Volumes struct {
	env     controllers.Env
	volumes client.Informer[*corev1.PersistentVolume]
	loop    *client.Loop
}

// NewVolumes makes the controller of volumes and registers its handler.
func NewVolumes(env controllers.Env) (*Volumes, error) {
	c := &Volumes{env: env, volumes: client.InformerFor(env.Informers, client.PersistentVolumes)}
	c.loop = env.NewLoop("pvprotection", c.reconcile)
	_, err := c.volumes.OnChange(func(v, _ *corev1.PersistentVolume) {
		if v != nil && (v.DeletionTimestamp != nil || !slices.Contains(v.Finalizers, VolumeFinalizer)) {
			c.loop.AddObject(v)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Volumes) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Volumes) reconcile(ctx context.Context, name string) (time.Duration, error) {
	v, ok := c.volumes.GetKey(name)
	if !ok {
		return 0, nil
	}
	a := planFinalizer(v, VolumeFinalizer, func() bool { return v.Status.Phase == corev1.VolumeBound })
	return 0, write(ctx, client.PersistentVolumes.In(c.env.Client, ""), v, a, VolumeFinalizer)
}

func write[T client.Object](ctx context.Context, res client.Resource[T], obj T, a action, finalizer string) error {
	if a == leave {
		return nil
	}
	obj = obj.DeepCopyObject().(T)
	obj.SetFinalizers(apply(a, obj.GetFinalizers(), finalizer))
	_, err := res.Update(ctx, obj)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("updating the finalizers of %s: %w", obj.GetName(), err)
	}
	return nil
}
