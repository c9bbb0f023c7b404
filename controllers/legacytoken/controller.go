package legacytoken

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Period is upstream's default of the clean-up period, a year.
const Period = 365 * 24 * time.Hour

// tracking is the ConfigMap in which the API server says since when it notes
// the use of tokens.
const tracking = "kube-apiserver-legacy-service-account-token-tracking"

// Controller marks and deletes Secrets.
type Controller struct {
	env      controllers.Env
	period   time.Duration
	secrets  client.Informer[*corev1.Secret]
	accounts client.Informer[*corev1.ServiceAccount]
	pods     client.Informer[*corev1.Pod]
	loop     *client.Loop
}

// New makes the controller and registers its handlers.
func New(env controllers.Env, period time.Duration) (*Controller, error) {
	c := &Controller{
		env: env, period: period,
		secrets:  client.InformerFor(env.Informers, client.Secrets),
		accounts: client.InformerFor(env.Informers, client.ServiceAccounts),
		pods:     client.InformerFor(env.Informers, client.Pods),
	}
	c.loop = env.NewLoop("legacy_serviceaccount_token_cleaner", c.reconcile)
	if _, err := c.secrets.OnChange(func(s, _ *corev1.Secret) {
		if s != nil && s.Type == corev1.SecretTypeServiceAccountToken {
			c.loop.AddObject(s)
		}
	}); err != nil {
		return nil, err
	}
	_, err := c.accounts.OnChange(func(a, _ *corev1.ServiceAccount) {
		if a == nil {
			return
		}
		for _, ref := range a.Secrets {
			c.loop.Add(a.Namespace + "/" + ref.Name)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, 1) }

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	s, ok := c.secrets.GetKey(key)
	if !ok || s.DeletionTimestamp != nil {
		return 0, nil
	}
	account, _ := c.accounts.Get(s.Namespace, s.Annotations[corev1.ServiceAccountNameKey])
	if !Generated(s, account) {
		return 0, nil
	}
	since, err := c.since(ctx)
	if err != nil {
		return 0, err
	}
	p := Decide(Facts{Secret: s, Account: account, Mounted: c.mounted(s), Since: since}, c.period, c.env.Clock.Now())
	switch in := client.Secrets.In(c.env.Client, s.Namespace); {
	case p.Mark:
		today := c.env.Clock.Now().UTC().Format(time.DateOnly)
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": s.UID, "resourceVersion": s.ResourceVersion, "labels": map[string]string{labelInvalid: today}}})
		if err != nil {
			return 0, err
		}
		if _, err := in.Patch(ctx, s.Name, types.MergePatchType, patch); err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("marking the token in secret %s: %w", key, err)
		}
		c.env.Log.Info("a token that nobody uses is marked as invalid", "secret", key, "label", labelInvalid)
	case p.Delete:
		// Of the version that was looked at: it may just have been used.
		uid, rv := s.UID, s.ResourceVersion
		err := in.Delete(ctx, s.Name, client.Options{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &rv}})
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("deleting the token in secret %s: %w", key, err)
		}
		c.env.Log.Info("a token that was invalid for long is deleted", "secret", key)
	}
	return p.Again, nil
}

// since is from when on the use of tokens is noted; zero is unknown.
func (c *Controller) since(ctx context.Context) (time.Time, error) {
	m, err := client.ConfigMaps.In(c.env.Client, metav1.NamespaceSystem).Get(ctx, tracking)
	if err != nil {
		return time.Time{}, fmt.Errorf("since when tokens' use is noted: %w", err)
	}
	return day(m.Data["since"]), nil
}

func (c *Controller) mounted(s *corev1.Secret) bool {
	for _, p := range c.pods.List(s.Namespace, nil) {
		for i := range p.Spec.Volumes {
			if v := p.Spec.Volumes[i].Secret; v != nil && v.SecretName == s.Name {
				return true
			}
		}
	}
	return false
}
