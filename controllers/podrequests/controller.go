// Package podrequests deletes PodCertificateRequests (KEP-4317) that have
// served: requests go in, those that are older than any kubelet waits for go.
package podrequests

import (
	"context"
	"fmt"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

// Lifetime is how long a request stays, whatever has become of it: a kubelet
// has what it needs of it, or asks again.
const Lifetime = 15 * time.Minute

// Cleaner deletes old requests.
type Cleaner struct {
	env      controllers.Env
	requests client.Informer[*certificatesv1beta1.PodCertificateRequest]
	loop     *client.Loop
}

// New makes the controller.
func New(env controllers.Env) (*Cleaner, error) {
	c := &Cleaner{env: env, requests: client.InformerFor(env.Informers, client.PodCertificateRequests)}
	c.loop = env.NewLoop("podcertificaterequest_cleaner", c.reconcile)
	return c, controllers.Follow(c.loop, c.requests)
}

// Run works until ctx ends.
func (c *Cleaner) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(1)) }

func (c *Cleaner) reconcile(ctx context.Context, key string) (time.Duration, error) {
	r, ok := c.requests.GetKey(key)
	if !ok {
		return 0, nil
	}
	if left := r.CreationTimestamp.Add(Lifetime).Sub(c.env.Clock.Now()); left > 0 {
		return left, nil
	}
	err := client.PodCertificateRequests.In(c.env.Client, r.Namespace).Delete(ctx, r.Name, client.Exactly(r.UID))
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("deleting the request %s: %w", key, err)
	}
	return 0, nil
}
