// Package rootca puts the CA bundle that verifies the API server into every
// namespace, as the ConfigMap kube-root-ca.crt that pods mount.
package rootca

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	name        = "kube-root-ca.crt"
	annotation  = "kubernetes.io/description"
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controller publishes the bundle.
type Controller struct {
	env        controllers.Env
	bundle     string
	namespaces client.Informer[*corev1.Namespace]
	maps       client.Informer[*corev1.ConfigMap]
	loop       *client.Loop
	writes     client.Writes
}

// New makes the controller; bundle is PEM.
func New(env controllers.Env, bundle []byte) (*Controller, error) {
	c := &Controller{
		env: env, bundle: string(bundle),
		namespaces: client.InformerFor(env.Informers, client.Namespaces),
		maps:       client.InformerFor(env.Informers, client.ConfigMaps),
	}
	c.loop = env.NewLoop("root_ca_cert_publisher", c.reconcile)
	if _, err := c.namespaces.OnChange(func(n, _ *corev1.Namespace) {
		if n != nil {
			c.loop.AddObject(n)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.maps.OnChange(func(m, old *corev1.ConfigMap) {
		if m == nil {
			m = old
		}
		if m.Name == name {
			c.loop.Add(m.Namespace)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(2)) }

// want returns the ConfigMap as it is to be, or nil when have is right.
func want(ns, bundle string, have *corev1.ConfigMap) *corev1.ConfigMap {
	data := map[string]string{"ca.crt": bundle}
	if have == nil {
		m := &corev1.ConfigMap{Data: data}
		m.Namespace, m.Name = ns, name
		m.Annotations = map[string]string{annotation: description}
		return m
	}
	if maps.Equal(have.Data, data) && len(have.BinaryData) == 0 && have.Annotations[annotation] != "" {
		return nil
	}
	m := have.DeepCopy()
	m.Data, m.BinaryData = data, nil
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[annotation] = description
	return m
}

func (c *Controller) reconcile(ctx context.Context, ns string) (time.Duration, error) {
	n, ok := c.namespaces.Get("", ns)
	if !ok || n.DeletionTimestamp != nil || n.Status.Phase == corev1.NamespaceTerminating {
		c.writes.Forget(ns)
		return 0, nil
	}
	if !c.maps.CaughtUp(&c.writes, ns) {
		return 0, nil
	}
	have, _ := c.maps.Get(ns, name)
	m := want(ns, c.bundle, have)
	if m == nil {
		return 0, nil
	}
	res := client.ConfigMaps.In(c.env.Client, ns)
	put := res.Create
	if have != nil {
		put = res.Update
	}
	got, err := put(ctx, m)
	switch {
	case err == nil:
		c.writes.Wrote(ns, got)
		return 0, nil
	case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), controllers.NamespaceEnding(err):
		return 0, nil // the informer will show what is there
	}
	return 0, fmt.Errorf("writing %s/%s: %w", ns, name, err)
}
