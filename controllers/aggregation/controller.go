package aggregation

import (
	"context"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Controller reconciles ClusterRoles with an aggregation rule.
type Controller struct {
	env    controllers.Env
	roles  client.Informer[*rbacv1.ClusterRole]
	loop   *client.Loop
	writes client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{env: env, roles: client.InformerFor(env.Informers, client.ClusterRoles)}
	c.loop = env.NewLoop("ClusterRoleAggregator", c.reconcile)
	_, err := c.roles.OnChange(c.changed)
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, 1) }

// changed wakes the role and those that gather it, or did.
func (c *Controller) changed(role, old *rbacv1.ClusterRole) {
	for _, x := range [...]*rbacv1.ClusterRole{role, old} {
		if x == nil {
			continue
		}
		if x.AggregationRule != nil {
			c.loop.Add(x.Name)
		}
		for _, r := range c.roles.List("", nil) {
			if Gathers(r, x) {
				c.loop.Add(r.Name)
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	role, ok := c.roles.GetKey(key)
	if !ok || role.AggregationRule == nil {
		c.writes.Forget(key)
		return 0, nil
	}
	if !c.roles.CaughtUp(&c.writes, key) {
		return 0, nil // the event that is still to come wakes us
	}
	rules := Rules(role, c.roles.List("", nil))
	if apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return 0, nil
	}
	m := role.DeepCopy()
	m.Rules = rules
	got, err := client.ClusterRoles.In(c.env.Client, "").Update(ctx, m)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("filling ClusterRole %s: %w", key, err)
	}
	c.writes.Wrote(key, got)
	return 0, nil
}
