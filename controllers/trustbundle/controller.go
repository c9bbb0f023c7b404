// Package trustbundle publishes the authority that vouches for the API
// server's serving certificate as a ClusterTrustBundle (KEP-3257): PEM goes in,
// one bundle of the signer kubernetes.io/kube-apiserver-serving comes out, and
// former ones go.
package trustbundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	signer = "kubernetes.io/kube-apiserver-serving"
	key    = "bundle" // of the only thing there is to do
)

type bundle = certificatesv1beta1.ClusterTrustBundle

// Controller keeps the bundle.
type Controller struct {
	env     controllers.Env
	anchors string
	bundles client.Informer[*bundle]
	loop    *client.Loop
}

// New makes the controller; anchors are certificates as PEM.
func New(env controllers.Env, anchors []byte) (*Controller, error) {
	c := &Controller{env: env, anchors: string(anchors), bundles: client.InformerFor(env.Informers, client.ClusterTrustBundles)}
	c.loop = env.NewLoop("kube_apiserver_serving_clustertrustbundle_publisher", c.reconcile)
	_, err := c.bundles.OnChange(func(now, old *bundle) {
		if now == nil {
			now = old
		}
		if now.Spec.SignerName == signer {
			c.loop.Add(key)
		}
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	c.loop.Add(key) // there may be no bundle that would say so
	c.loop.Run(ctx, 1)
}

// wanted is the bundle of these anchors. Its name is that of its content, so
// that servers of two authorities can stand side by side while one replaces the
// other.
func wanted(anchors string) *bundle {
	sum := sha256.Sum256([]byte(anchors))
	return &bundle{
		ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(signer, "/", ":") + ":" + hex.EncodeToString(sum[:])[:24]},
		Spec:       certificatesv1beta1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: anchors},
	}
}

// plan says what to create or update, nil if it is there, and what to delete.
func plan(anchors string, have []*bundle) (create, update *bundle, gone []*bundle) {
	create = wanted(anchors)
	name := create.Name
	for _, b := range have {
		switch {
		case b.Spec.SignerName != signer:
		case b.Name != name:
			gone = append(gone, b)
		case b.Spec.TrustBundle != anchors:
			create, update = nil, b.DeepCopy()
			update.Spec.TrustBundle = anchors
		default:
			create = nil
		}
	}
	slices.SortFunc(gone, func(a, b *bundle) int { return strings.Compare(a.Name, b.Name) })
	return create, update, gone
}

func (c *Controller) reconcile(ctx context.Context, _ string) (time.Duration, error) {
	res := client.ClusterTrustBundles.In(c.env.Client, "")
	create, update, gone := plan(c.anchors, c.bundles.List("", nil))
	var err error
	switch {
	case create != nil:
		_, err = res.Create(ctx, create)
	case update != nil:
		_, err = res.Update(ctx, update)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return 0, fmt.Errorf("publishing the API server's authority: %w", err) // the old ones stay meanwhile
	}
	var errs []error
	for _, b := range gone {
		err := res.Delete(ctx, b.Name, client.Exactly(b.UID))
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting the former bundle %s: %w", b.Name, err))
		}
	}
	return 0, errors.Join(errs...)
}
