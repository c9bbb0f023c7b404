// Package podcerts reads what pods trust and has certificates made for them:
// ClusterTrustBundles (KEP-3257) and PodCertificateRequests (KEP-4317) come
// from the API, PEM for projected volumes goes out.
package podcerts

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// Bundles holds the cluster's trust bundles from the first time that a pod of
// this node wants one. It is safe for concurrent use.
type Bundles struct {
	ctx     context.Context
	c       client.Interface
	changed func()

	mu  sync.Mutex
	set *client.Informers
	all client.Informer[*certificatesv1beta1.ClusterTrustBundle]
}

// NewBundles makes one that reads until ctx ends and calls changed when there
// are others than before.
func NewBundles(ctx context.Context, c client.Interface, changed func()) *Bundles {
	return &Bundles{ctx: ctx, c: c, changed: changed}
}

// Anchors returns the certificates that a projection selects as PEM, each once
// and in an order of their own. An optional one may select none.
func (b *Bundles) Anchors(ctx context.Context, p *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	inf, err := b.informer(ctx)
	if err != nil {
		return nil, err
	}
	optional := p.Optional != nil && *p.Optional
	var text []string
	if p.Name != nil {
		bundle, ok := inf.Get("", *p.Name)
		if !ok && !optional {
			return nil, apierrors.NewNotFound(client.ClusterTrustBundles.GroupVersionResource.GroupResource(), *p.Name)
		}
		if ok {
			text = append(text, bundle.Spec.TrustBundle)
		}
		return anchors(text), nil
	}
	if p.SignerName == nil {
		return nil, errors.New("a clusterTrustBundle source has neither a name nor a signer's")
	}
	// No selector selects nothing, an empty one everything.
	sel, err := metav1.LabelSelectorAsSelector(p.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("labelSelector: %w", err)
	}
	for _, o := range inf.List("", sel) {
		if o.Spec.SignerName == *p.SignerName {
			text = append(text, o.Spec.TrustBundle)
		}
	}
	if len(text) == 0 && !optional {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return anchors(text), nil
}

// informer begins to read at the first call. A cluster that does not serve
// trust bundles is asked again by the next pod that wants one, not all the time.
func (b *Bundles) informer(ctx context.Context) (client.Informer[*certificatesv1beta1.ClusterTrustBundle], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == nil {
		if _, _, err := client.ClusterTrustBundles.In(b.c, "").List(ctx, client.Options{Limit: 1}); err != nil {
			return b.all, fmt.Errorf("read ClusterTrustBundles: %w", err)
		}
		set := client.NewInformers(b.c)
		inf := client.InformerFor(set, client.ClusterTrustBundles)
		if _, err := inf.OnChange(func(_, _ *certificatesv1beta1.ClusterTrustBundle) { b.changed() }); err != nil {
			return b.all, err
		}
		set.Start(b.ctx)
		b.set, b.all = set, inf
	}
	if !client.WaitForSync(ctx, b.all.HasSyncedChecker()) {
		return b.all, fmt.Errorf("read ClusterTrustBundles: %w", ctx.Err())
	}
	return b.all, nil
}

// anchors makes one text of many: without what stands between and above the
// certificates, each once, sorted.
func anchors(texts []string) []byte {
	var all [][]byte
	for _, t := range texts {
		all = append(all, blocks([]byte(t))...)
	}
	slices.SortFunc(all, bytes.Compare)
	return bytes.Join(slices.CompactFunc(all, bytes.Equal), nil)
}

// blocks returns the certificates of a PEM text, each encoded anew.
func blocks(text []byte) [][]byte {
	var out [][]byte
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return out
		}
		if b.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}))
		}
	}
}
