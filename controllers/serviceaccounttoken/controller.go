// Package serviceaccounttoken puts tokens into the secrets that ask for one
// (type kubernetes.io/service-account-token): service accounts and secrets in,
// secrets filled or deleted out.
package serviceaccounttoken

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Mint makes the token of a secret of a service account.
type Mint func(namespace, secret, account, uid string) (string, error)

// Controller fills the secrets.
type Controller struct {
	env      controllers.Env
	ca       []byte
	mint     Mint
	secrets  client.Informer[*corev1.Secret]
	accounts client.Informer[*corev1.ServiceAccount]
	loop     *client.Loop
}

const byAccount = "service-account-token.account"

// New makes the controller; ca is the PEM bundle that verifies the API server.
func New(env controllers.Env, ca []byte, mint Mint) (*Controller, error) {
	c := &Controller{
		env: env, ca: ca, mint: mint,
		secrets:  client.InformerFor(env.Informers, client.Secrets),
		accounts: client.InformerFor(env.Informers, client.ServiceAccounts),
	}
	c.loop = env.NewLoop("serviceaccount_tokens_service", c.reconcile)
	if err := c.secrets.AddIndex(byAccount, func(s *corev1.Secret) []string {
		if s.Type != corev1.SecretTypeServiceAccountToken {
			return nil
		}
		return []string{s.Namespace + "/" + s.Annotations[corev1.ServiceAccountNameKey]}
	}); err != nil {
		return nil, err
	}
	if _, err := c.secrets.OnChange(func(s, _ *corev1.Secret) {
		if s != nil && s.Type == corev1.SecretTypeServiceAccountToken {
			c.loop.AddObject(s)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.accounts.OnChange(func(a, old *corev1.ServiceAccount) {
		if a == nil {
			a = old
		}
		for _, s := range c.secrets.ByIndex(byAccount, a.Namespace+"/"+a.Name) {
			c.loop.AddObject(s)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(2)) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	s, ok := c.secrets.GetKey(key)
	if !ok {
		return 0, nil
	}
	ns, _, _ := strings.Cut(key, "/")
	name := s.Annotations[corev1.ServiceAccountNameKey]
	account, _ := c.accounts.Get(ns, name)
	do := plan(s, account, c.ca)
	if do == remove { // what is cached can be older than the secret
		now, err := client.ServiceAccounts.In(c.env.Client, ns).Get(ctx, name)
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("looking up service account %s/%s: %w", ns, name, err)
		}
		if account = now; err != nil {
			account = nil
		}
		do = plan(s, account, c.ca)
	}
	secrets := client.Secrets.In(c.env.Client, ns)
	var err error
	switch do {
	case remove:
		err = secrets.Delete(ctx, s.Name, client.Options{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}})
	case fill:
		var want *corev1.Secret
		want, err = filled(s, account, c.ca, func() (string, error) { return c.mint(ns, s.Name, account.Name, string(account.UID)) })
		if err == nil {
			_, err = secrets.Update(ctx, want)
		}
	}
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return 0, nil // the informer will show what is there
	case err != nil:
		return 0, fmt.Errorf("token secret %s: %w", key, err)
	}
	return 0, nil
}
