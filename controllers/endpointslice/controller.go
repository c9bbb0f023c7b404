package endpointslice

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
	"github.com/coxswain/cox/controllers/backends"
)

const (
	workers   = 5
	byService = "service"
)

// Settings are how a cluster may want its slices otherwise.
type Settings struct {
	// Batch is for how long the changes of pods are gathered before slices
	// are written; 0 is not at all.
	Batch time.Duration
	// Most is how many endpoints a slice holds, from 1 to 1000; 0 is
	// MaxEndpoints.
	Most int
}

// Controller reconciles the EndpointSlices of Services with a selector.
type Controller struct {
	env      controllers.Env
	settings Settings
	index    *backends.Index
	services client.Informer[*corev1.Service]
	slices   client.Informer[*discoveryv1.EndpointSlice]
	nodes    client.Informer[*corev1.Node]
	loop     *client.Loop
	writes   client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env, settings Settings) (*Controller, error) {
	settings.Most = cmp.Or(settings.Most, MaxEndpoints)
	c := &Controller{
		env: env, settings: settings,
		services: client.InformerFor(env.Informers, client.Services),
		slices:   client.InformerFor(env.Informers, client.EndpointSlices),
		nodes:    client.InformerFor(env.Informers, client.Nodes),
	}
	c.loop = env.NewLoop("endpoint_slice", c.reconcile)
	var err error
	if c.index, err = backends.NewIndex(env.Informers); err != nil {
		return nil, err
	}
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
		c.loop.AddObject(s)
	}); err != nil {
		return nil, err
	}
	if err := c.index.OnPodChange(func(s *corev1.Service) { c.loop.AddObjectAfter(s, settings.Batch) }); err != nil {
		return nil, err
	}
	if _, err := c.slices.OnChange(func(s, old *discoveryv1.EndpointSlice) { c.wakeOwner(s, old) }); err != nil {
		return nil, err
	}
	_, err = c.nodes.OnChange(c.nodeChanged)
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) wakeOwner(slices ...*discoveryv1.EndpointSlice) {
	for _, s := range slices {
		if s == nil {
			continue
		}
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.Labels[discoveryv1.LabelManagedBy] == ManagedBy {
			c.loop.Add(s.Namespace + "/" + name)
		}
	}
}

// nodeChanged matters when a node moves to another zone, or its zone becomes
// known only after its pods.
func (c *Controller) nodeChanged(n, old *corev1.Node) {
	if n == nil || zone(n) == zone(old) {
		return
	}
	for _, s := range c.services.List("", nil) {
		if len(s.Spec.Selector) > 0 {
			c.loop.AddObject(s)
		}
	}
}

func zone(n *corev1.Node) string {
	if n == nil {
		return ""
	}
	return n.Labels[corev1.LabelTopologyZone]
}

func (c *Controller) zoneOf(node string) string {
	n, ok := c.nodes.Get("", node)
	if !ok {
		return ""
	}
	return zone(n)
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	s, ok := c.services.GetKey(key)
	if !ok {
		c.writes.Forget(key) // the garbage collector takes the slices
		return 0, nil
	}
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return 0, nil // someone else's endpoints, or none
	}
	if !c.slices.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	plan := Make(s, c.index.Pods(s), c.slices.ByIndex(byService, key), c.zoneOf, c.settings.Most)
	if err := c.apply(ctx, key, s, &plan); err != nil {
		if controllers.NamespaceEnding(err) {
			return 0, nil
		}
		return 0, err
	}
	return 0, nil
}

// apply adds before it takes away, so that no endpoint is missing meanwhile.
func (c *Controller) apply(ctx context.Context, key string, s *corev1.Service, plan *Plan) error {
	res := client.EndpointSlices.In(c.env.Client, s.Namespace)
	for _, slice := range plan.Create {
		got, err := res.Create(ctx, slice)
		if err != nil {
			return c.failed(s, "FailedToCreateEndpointSlice", fmt.Errorf("creating EndpointSlice: %w", err))
		}
		c.writes.Wrote(key, got)
	}
	for _, slice := range plan.Update {
		got, err := res.Update(ctx, slice)
		if err != nil {
			return c.failed(s, "FailedToUpdateEndpointSlices", fmt.Errorf("updating EndpointSlice %s: %w", slice.Name, err))
		}
		c.writes.Wrote(key, got)
	}
	for _, slice := range plan.Delete {
		c.writes.Deleted(key, slice)
		err := res.Delete(ctx, slice.Name, client.Exactly(slice.UID))
		if err != nil && !apierrors.IsNotFound(err) {
			c.writes.Undelete(key, slice)
			return c.failed(s, "FailedToDeleteEndpointSlices", fmt.Errorf("deleting EndpointSlice %s: %w", slice.Name, err))
		}
	}
	return nil
}

// failed tells the user of what a retry alone will not cure.
func (c *Controller) failed(s *corev1.Service, reason string, err error) error {
	if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !controllers.NamespaceEnding(err) {
		c.env.Events.Eventf(s, corev1.EventTypeWarning, reason, "Error updating Endpoint Slices for Service %s/%s: %v", s.Namespace, s.Name, err)
	}
	return err
}
