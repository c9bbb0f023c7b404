package peers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// An identity Lease says which servers there are, their machines and holders
// (KEP-1965). It outlives an hour without renewal; that a server has died shows
// in the endpoints long before. Upstream renews it every 10 seconds, which is
// a write each time.
const (
	identityLabel = "apiserver.kubernetes.io/identity"
	identityValue = "kube-apiserver"
	addressNote   = "kubernetes.io/peer-advertise-address"
	identityLasts = time.Hour
	identityRenew = 10 * time.Minute
)

func (m *Member) identities() client.Resource[*coordinationv1.Lease] {
	return client.Leases.In(m.cfg.Door, metav1.NamespaceSystem)
}

// renew creates or renews this server's identity Lease.
func (m *Member) renew(ctx context.Context) error {
	set := func(l *coordinationv1.Lease) bool {
		metav1.SetMetaDataLabel(&l.ObjectMeta, identityLabel, identityValue)
		metav1.SetMetaDataLabel(&l.ObjectMeta, "kubernetes.io/hostname", m.cfg.Hostname)
		metav1.SetMetaDataAnnotation(&l.ObjectMeta, addressNote, m.cfg.Endpoint.String())
		l.Spec.HolderIdentity = &m.holder
		l.Spec.LeaseDurationSeconds = ptr.To(int32(identityLasts.Seconds()))
		l.Spec.RenewTime = ptr.To(metav1.NewMicroTime(m.cfg.Now()))
		return true
	}
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: m.name}}
	set(l)
	if err := ensured(ctx, m.identities(), l, set); err != nil {
		return fmt.Errorf("renew the API server's identity Lease: %w", err)
	}
	return nil
}

// keepIdentity renews the Lease, and deletes those of servers that are gone,
// until ctx ends.
func (m *Member) keepIdentity(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.collect(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("Leases of API servers that are gone are not deleted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(identityRenew - rand.N(identityRenew/10)): // not all at once
		}
		if err := m.renew(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("renewal failed", "error", err)
		}
	}
}

// collect deletes the identity Leases that have run out.
func (m *Member) collect(ctx context.Context) error {
	all, _, err := m.identities().List(ctx, client.Options{LabelSelector: labels.SelectorFromSet(labels.Set{identityLabel: identityValue})})
	if err != nil {
		return err
	}
	now := m.cfg.Now()
	for _, l := range all {
		if l.Name == m.name || !expired(l, now) {
			continue
		}
		err := m.identities().Delete(ctx, l.Name, client.Options{Preconditions: &metav1.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// expired says that a Lease has run out, or never was one.
func expired(l *coordinationv1.Lease, now time.Time) bool {
	if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return true
	}
	return l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second).Before(now)
}
