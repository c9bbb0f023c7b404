// Package volumeexpand tells of claims that are to grow: claims come in,
// events go out. The growing itself is done by drivers' external resizers and
// by kubelets, which agree through the claim's status.
package volumeexpand

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 1

// Controller tells whom a growing claim waits for.
type Controller struct {
	env     controllers.Env
	claims  client.Informer[*corev1.PersistentVolumeClaim]
	volumes client.Informer[*corev1.PersistentVolume]
	loop    *client.Loop
}

// New makes the controller and registers its handler.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:     env,
		claims:  client.InformerFor(env.Informers, client.PersistentVolumeClaims),
		volumes: client.InformerFor(env.Informers, client.PersistentVolumes),
	}
	c.loop = env.NewLoop("volume_expand", c.reconcile)
	_, err := c.claims.OnChange(func(claim, old *corev1.PersistentVolumeClaim) {
		if claim != nil && old != nil && asked(old, claim) {
			c.loop.AddObject(claim)
		}
	})
	return c, err
}

// asked says that a bound claim was changed to ask for more than before.
func asked(old, claim *corev1.PersistentVolumeClaim) bool {
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return claim.Status.Phase == corev1.ClaimBound && is.Cmp(was) > 0
}

// waits says that a claim asks for more than its volume has.
func waits(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) bool {
	has, is := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return is.Cmp(has) > 0
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(_ context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.GetKey(key)
	if !ok {
		return 0, nil
	}
	v, ok := c.volumes.Get("", claim.Spec.VolumeName)
	if !ok || !waits(claim, v) {
		return 0, nil
	}
	if v.Spec.CSI != nil {
		c.env.Events.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
	} else {
		c.env.Events.Event(claim, corev1.EventTypeWarning, "ExternalExpanding", "Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC.")
	}
	return 0, nil
}
