package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Controller assigns spec.podCIDRs. It has one worker, so that no part is
// given twice.
type Controller struct {
	env    controllers.Env
	ranges []Range
	nodes  client.Informer[*corev1.Node]
	loop   *client.Loop
	// given are parts that this process gave away, until the informer shows
	// them or the node is gone; only the worker touches it.
	given map[string][]netip.Prefix
}

// New makes the controller of the given ranges, at most one per family.
func New(env controllers.Env, ranges []Range) (*Controller, error) {
	c := &Controller{env: env, ranges: ranges, nodes: client.InformerFor(env.Informers, client.Nodes), given: map[string][]netip.Prefix{}}
	c.loop = env.NewLoop("node_ipam", c.reconcile)
	_, err := c.nodes.OnChange(func(n, old *corev1.Node) {
		switch {
		case n == nil:
			c.loop.Add(old.Name)
			for _, other := range c.nodes.List("", nil) { // what it held is free for those that wait
				if len(other.Spec.PodCIDRs) == 0 {
					c.loop.Add(other.Name)
				}
			}
		case len(n.Spec.PodCIDRs) == 0 || old == nil || len(old.Spec.PodCIDRs) == 0:
			c.loop.Add(n.Name)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, 1) }

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	n, ok := c.nodes.Get("", name)
	if !ok || len(n.Spec.PodCIDRs) > 0 {
		delete(c.given, name)
		return 0, nil
	}
	if c.given[name] != nil {
		return 0, nil // the event that is still to come wakes us
	}
	var used []netip.Prefix
	for _, other := range c.nodes.List("", nil) {
		for _, s := range other.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(s); err == nil {
				used = append(used, p)
			}
		}
	}
	for _, ps := range c.given {
		used = append(used, ps...)
	}
	var parts []netip.Prefix
	var texts []string
	for _, r := range c.ranges {
		p, err := r.Free(used)
		if err != nil {
			if errors.Is(err, ErrFull) {
				c.env.Events.Eventf(n, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", n.Name)
			}
			return 0, nil // a node's going wakes us
		}
		parts, texts = append(parts, p), append(texts, p.String())
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID},
		"spec":     map[string]any{"podCIDR": texts[0], "podCIDRs": texts},
	})
	if err != nil {
		return 0, err
	}
	c.given[name] = parts
	if _, err := client.Nodes.In(c.env.Client, "").Patch(ctx, name, types.StrategicMergePatchType, data); err != nil {
		delete(c.given, name)
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("assigning %v to node %s: %w", texts, name, err)
	}
	return 0, nil
}
