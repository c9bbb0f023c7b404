// Package serviceaccount gives every namespace its ServiceAccount "default":
// namespaces in, service accounts out.
package serviceaccount

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const name = "default"

// Controller makes service accounts.
type Controller struct {
	env        controllers.Env
	namespaces client.Informer[*corev1.Namespace]
	accounts   client.Informer[*corev1.ServiceAccount]
	loop       *client.Loop
}

// New makes the controller and registers its handlers.
func New(env controllers.Env) (*Controller, error) {
	c := &Controller{
		env:        env,
		namespaces: client.InformerFor(env.Informers, client.Namespaces),
		accounts:   client.InformerFor(env.Informers, client.ServiceAccounts),
	}
	c.loop = env.NewLoop("serviceaccount", c.reconcile)
	if _, err := c.namespaces.OnChange(func(n, _ *corev1.Namespace) {
		if n != nil {
			c.loop.AddObject(n)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.accounts.OnChange(func(sa, old *corev1.ServiceAccount) {
		if sa == nil && old.Name == name {
			c.loop.Add(old.Namespace)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(2)) }

// wanted says whether the namespace lacks its account.
func wanted(n *corev1.Namespace, have bool) bool {
	return !have && n.DeletionTimestamp == nil && n.Status.Phase != corev1.NamespaceTerminating
}

func (c *Controller) reconcile(ctx context.Context, ns string) (time.Duration, error) {
	n, ok := c.namespaces.Get("", ns)
	if !ok {
		return 0, nil
	}
	if _, have := c.accounts.Get(ns, name); !wanted(n, have) {
		return 0, nil
	}
	sa := &corev1.ServiceAccount{}
	sa.Namespace, sa.Name = ns, name
	_, err := client.ServiceAccounts.In(c.env.Client, ns).Create(ctx, sa)
	if err == nil || apierrors.IsAlreadyExists(err) || controllers.NamespaceEnding(err) {
		return 0, nil
	}
	return 0, fmt.Errorf("creating service account %s/%s: %w", ns, name, err)
}
