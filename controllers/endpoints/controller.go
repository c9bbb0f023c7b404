package endpoints

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/controllers/backends"
)

const workers = 5

// Controller reconciles Endpoints.
type Controller struct {
	env       controllers.Env
	index     *backends.Index
	services  client.Informer[*corev1.Service]
	endpoints client.Informer[*corev1.Endpoints]
	loop      *client.Loop
	writes    client.Writes
}

// New makes the controller and registers its handlers. The changes of pods are
// gathered for as long as batch before Endpoints are written; 0 is not at all.
func New(env controllers.Env, batch time.Duration) (*Controller, error) {
	c := &Controller{
		env:       env,
		services:  client.InformerFor(env.Informers, client.Services),
		endpoints: client.InformerFor(env.Informers, client.Endpoints),
	}
	c.loop = env.NewLoop("endpoint", c.reconcile)
	var err error
	if c.index, err = backends.NewIndex(env.Informers); err != nil {
		return nil, err
	}
	if _, err := c.services.OnChange(func(s, old *corev1.Service) {
		if s == nil {
			s = old
		}
		c.loop.AddObject(s)
	}); err != nil {
		return nil, err
	}
	if err := c.index.OnPodChange(func(s *corev1.Service) { c.loop.AddObjectAfter(s, batch) }); err != nil {
		return nil, err
	}
	_, err = c.endpoints.OnChange(func(e, old *corev1.Endpoints) {
		if e == nil {
			e = old
		}
		c.loop.AddObject(e)
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	if !c.endpoints.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	have, exists := c.endpoints.GetKey(key)
	s, ok := c.services.GetKey(key)
	if !ok {
		c.writes.Forget(key)
		// Only what this controller made goes with its Service: other
		// Endpoints (leader locks, external ones) have never had one.
		if exists && have.Labels[managedByLabel] == managedBy {
			err := client.Endpoints.In(c.env.Client, have.Namespace).Delete(ctx, have.Name, client.Options{})
			if err != nil && !apierrors.IsNotFound(err) {
				return 0, fmt.Errorf("deleting endpoints: %w", err)
			}
		}
		return 0, nil
	}
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return 0, nil
	}
	want := Make(s, c.index.Pods(s), have)
	if want == nil {
		return 0, nil
	}
	res := client.Endpoints.In(c.env.Client, s.Namespace)
	put := res.Create
	if exists {
		put = res.Update
	}
	got, err := put(ctx, want)
	switch {
	case err == nil:
		c.writes.Wrote(key, got)
		return 0, nil
	case apierrors.IsAlreadyExists(err), controllers.NamespaceEnding(err):
		return 0, nil
	}
	if !apierrors.IsConflict(err) {
		c.env.Events.Eventf(s, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", s.Namespace, s.Name, err)
	}
	return 0, fmt.Errorf("writing endpoints: %w", err)
}
