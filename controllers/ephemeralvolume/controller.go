// Package ephemeralvolume makes the claims of generic ephemeral volumes: pods
// come in, claims that they own go out; the garbage collector takes them away
// with their pod.
package ephemeralvolume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const workers = 2

// Controller makes the claims.
type Controller struct {
	env    controllers.Env
	pods   client.Informer[*corev1.Pod]
	claims client.Informer[*corev1.PersistentVolumeClaim]
	loop   *client.Loop
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:    env,
		pods:   client.InformerFor(env.Informers, client.Pods),
		claims: client.InformerFor(env.Informers, client.PersistentVolumeClaims),
	}
	c.loop = env.NewLoop("ephemeral_volume", c.reconcile)
	if _, err := c.pods.OnChange(func(p, old *corev1.Pod) {
		if p != nil && old == nil && hasEphemeral(p) {
			c.loop.AddObject(p)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.claims.OnChange(func(claim, old *corev1.PersistentVolumeClaim) {
		if claim != nil {
			return
		}
		if ref := metav1.GetControllerOfNoCopy(old); ref != nil && ref.Kind == "Pod" {
			c.loop.Add(old.Namespace + "/" + ref.Name)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func hasEphemeral(p *corev1.Pod) bool {
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// claimFor is the claim of one ephemeral volume of a pod.
func claimFor(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	template := v.Ephemeral.VolumeClaimTemplate
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, v),
			Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}

// missing are the claims that a pod lacks; the error names one that is there
// but is not the pod's.
func missing(pod *corev1.Pod, claim func(name string) *corev1.PersistentVolumeClaim) ([]*corev1.PersistentVolumeClaim, error) {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	var out []*corev1.PersistentVolumeClaim
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		want := claimFor(pod, v)
		if have := claim(want.Name); have == nil {
			out = append(out, want)
		} else if err := ephemeral.VolumeIsForPod(pod, have); err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	pod, ok := c.pods.GetKey(key)
	if !ok {
		return 0, nil
	}
	claims, conflict := missing(pod, func(name string) *corev1.PersistentVolumeClaim {
		claim, _ := c.claims.Get(pod.Namespace, name)
		return claim
	})
	for _, claim := range claims {
		_, err := client.PersistentVolumeClaims.In(c.env.Client, pod.Namespace).Create(ctx, claim)
		c.env.Counts.VolumeClaimMade(err)
		if err == nil || controllers.NamespaceEnding(err) {
			continue
		}
		if apierrors.IsAlreadyExists(err) {
			return 0, fmt.Errorf("claim %s came before the informer saw it: %w", claim.Name, err)
		}
		c.env.Events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume: create PVC %s: %v", claim.Name, err)
		return 0, fmt.Errorf("creating claim %s: %w", claim.Name, err)
	}
	if conflict != nil {
		c.env.Events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume: %v", conflict)
	}
	return 0, conflict
}
