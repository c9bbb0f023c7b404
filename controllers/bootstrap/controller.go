package bootstrap

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Cleaner deletes expired tokens.
type Cleaner struct {
	env     controllers.Env
	secrets client.Informer[*corev1.Secret]
	loop    *client.Loop
}

// NewCleaner makes the controller and registers its handlers.
func NewCleaner(env controllers.Env) (*Cleaner, error) {
	c := &Cleaner{env: env, secrets: client.InformerFor(env.Informers, client.Secrets)}
	c.loop = env.NewLoop("token_cleaner", c.reconcile)
	_, err := c.secrets.OnChange(func(s, _ *corev1.Secret) {
		if s != nil && isToken(s) {
			c.loop.AddObject(s)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Cleaner) Run(ctx context.Context) { c.loop.Run(ctx, 1) }

func (c *Cleaner) reconcile(ctx context.Context, key string) (time.Duration, error) {
	s, ok := c.secrets.GetKey(key)
	if !ok || !isToken(s) {
		return 0, nil
	}
	at, expires := expiry(s)
	if !expires {
		return 0, nil
	}
	if wait := at.Sub(c.env.Clock.Now()); wait > 0 {
		return wait, nil
	}
	err := client.Secrets.In(c.env.Client, s.Namespace).Delete(ctx, s.Name, client.Exactly(s.UID))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return 0, fmt.Errorf("deleting expired bootstrap token: %w", err)
	}
	return 0, nil
}

// Signer keeps the signatures of kube-public/cluster-info.
type Signer struct {
	env     controllers.Env
	secrets client.Informer[*corev1.Secret]
	maps    client.Informer[*corev1.ConfigMap]
	loop    *client.Loop
}

// NewSigner makes the controller and registers its handlers.
func NewSigner(env controllers.Env) (*Signer, error) {
	c := &Signer{env: env, secrets: client.InformerFor(env.Informers, client.Secrets), maps: client.InformerFor(env.Informers, client.ConfigMaps)}
	c.loop = env.NewLoop("bootstrap_signer_queue", c.reconcile)
	if _, err := c.secrets.OnChange(func(s, old *corev1.Secret) {
		if s != nil && isToken(s) || old != nil && isToken(old) {
			c.loop.Add(infoName)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.maps.OnChange(func(m, _ *corev1.ConfigMap) {
		if m != nil && m.Namespace == infoNamespace && m.Name == infoName {
			c.loop.Add(infoName)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Signer) Run(ctx context.Context) { c.loop.Run(ctx, 1) }

func (c *Signer) reconcile(ctx context.Context, _ string) (time.Duration, error) {
	info, ok := c.maps.Get(infoNamespace, infoName)
	if !ok {
		return 0, nil
	}
	now, tokens := c.env.Clock.Now(), map[string]string{}
	var again time.Duration
	for _, s := range c.secrets.List(tokenNamespace, nil) {
		id, secret, ok := signingToken(s, now)
		if !ok {
			continue
		}
		tokens[id] = secret
		if at, expires := expiry(s); expires && (again == 0 || at.Sub(now) < again) {
			again = at.Sub(now)
		}
	}
	out, err := signed(info, tokens)
	if err != nil {
		return 0, err
	}
	if out == nil {
		return again, nil
	}
	if _, err := client.ConfigMaps.In(c.env.Client, infoNamespace).Update(ctx, out); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("writing cluster-info: %w", err)
	}
	return again, nil
}
