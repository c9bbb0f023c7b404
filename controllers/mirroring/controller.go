package mirroring

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	workers   = 2
	byService = "mirrored"
)

// Settings are how a cluster may want its mirrored slices otherwise.
type Settings struct {
	// Batch is for how long the changes of Endpoints are gathered before slices
	// are written; 0 is not at all.
	Batch time.Duration
	// Most is how many addresses of a subset are mirrored, from 1 to 1000; 0 is
	// PerSubset.
	Most int
}

// Controller reconciles the slices that mirror Endpoints.
type Controller struct {
	env       controllers.Env
	settings  Settings
	services  client.Informer[*corev1.Service]
	endpoints client.Informer[*corev1.Endpoints]
	slices    client.Informer[*discoveryv1.EndpointSlice]
	loop      *client.Loop
	writes    client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env, settings Settings) (*Controller, error) {
	settings.Most = cmp.Or(settings.Most, PerSubset)
	c := &Controller{
		env: env, settings: settings,
		services:  client.InformerFor(env.Informers, client.Services),
		endpoints: client.InformerFor(env.Informers, client.Endpoints),
		slices:    client.InformerFor(env.Informers, client.EndpointSlices),
	}
	c.loop = env.NewLoop("endpoint_slice_mirroring", c.reconcile)
	if err := c.slices.AddIndex(byService, func(s *discoveryv1.EndpointSlice) []string {
		if s.Labels[discoveryv1.LabelManagedBy] != ManagedBy || s.Labels[discoveryv1.LabelServiceName] == "" {
			return nil
		}
		return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}
	}); err != nil {
		return nil, err
	}
	if _, err := c.services.OnChange(func(s, old *corev1.Service) {
		if s == nil {
			s = old
		}
		// A Service with selector matters only when it has just got it.
		if s.Spec.Selector == nil || old != nil && old.Spec.Selector == nil {
			c.loop.AddObject(s)
		}
	}); err != nil {
		return nil, err
	}
	if _, err := c.endpoints.OnChange(func(e, old *corev1.Endpoints) {
		if e == nil {
			e = old
		}
		c.loop.AddObjectAfter(e, settings.Batch)
	}); err != nil {
		return nil, err
	}
	_, err := c.slices.OnChange(func(s, old *discoveryv1.EndpointSlice) {
		if s == nil {
			s = old
		}
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.Labels[discoveryv1.LabelManagedBy] == ManagedBy {
			c.loop.Add(s.Namespace + "/" + name)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	if !c.slices.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	e, _ := c.endpoints.GetKey(key)
	s, _ := c.services.GetKey(key)
	have := c.slices.ByIndex(byService, key)
	if !Wanted(e, s) {
		e = nil
		if len(have) == 0 {
			c.writes.Forget(key)
			return 0, nil
		}
	}
	plan := Make(e, have, c.settings.Most)
	if err := c.apply(ctx, key, &plan); err != nil {
		if controllers.NamespaceEnding(err) {
			return 0, nil
		}
		if s != nil && !apierrors.IsConflict(err) {
			c.env.Events.Eventf(s, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		}
		return 0, err
	}
	return 0, nil
}

func (c *Controller) apply(ctx context.Context, key string, plan *Plan) error {
	for _, s := range plan.Create {
		got, err := client.EndpointSlices.In(c.env.Client, s.Namespace).Create(ctx, s)
		if err != nil {
			return fmt.Errorf("creating EndpointSlice: %w", err)
		}
		c.writes.Wrote(key, got)
	}
	for _, s := range plan.Update {
		got, err := client.EndpointSlices.In(c.env.Client, s.Namespace).Update(ctx, s)
		if err != nil {
			return fmt.Errorf("updating EndpointSlice: %w", err)
		}
		c.writes.Wrote(key, got)
	}
	for _, s := range plan.Delete {
		c.writes.Deleted(key, s)
		err := client.EndpointSlices.In(c.env.Client, s.Namespace).Delete(ctx, s.Name, client.Exactly(s.UID))
		if err != nil {
			c.writes.Undelete(key, s)
			if !apierrors.IsNotFound(err) {
				return fmt.Errorf("deleting EndpointSlice %s: %w", s.Name, err)
			}
		}
	}
	return nil
}
