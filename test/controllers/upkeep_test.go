package controllers_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/controllers/servicecidr"
)

// A range of service addresses is held by its finalizer while an address is in
// it and in no other, and says so.
func TestServiceRangeGoesWhenUnused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	cidrs := client.ServiceCIDRs.In(w.root, "")
	ready := func(c *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason string) bool {
		return c != nil && slices.ContainsFunc(c.Status.Conditions, func(k metav1.Condition) bool {
			return k.Type == networkingv1.ServiceCIDRConditionReady && k.Status == status && k.Reason == reason
		})
	}
	object(w, client.ServiceCIDRs, "", "kubernetes", "protected", func(c *networkingv1.ServiceCIDR) bool {
		return ready(c, metav1.ConditionTrue, "") && slices.Contains(c.Finalizers, servicecidr.Finalizer)
	})
	_, err := cidrs.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/24"}}})
	w.must(err)
	object(w, client.ServiceCIDRs, "", "more", "ready", func(c *networkingv1.ServiceCIDR) bool {
		return ready(c, metav1.ConditionTrue, "") && slices.Contains(c.Finalizers, servicecidr.Finalizer)
	})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}
	svc.Spec.ClusterIP, svc.Spec.Ports = "10.99.0.7", []corev1.ServicePort{{Port: 80}}
	_, err = client.Services.In(w.root, "default").Create(ctx, svc.DeepCopy())
	w.must(err)
	object(w, client.IPAddresses, "", "10.99.0.7", "there", func(a *networkingv1.IPAddress) bool { return a != nil })
	w.must(cidrs.Delete(ctx, "more", client.Options{}))
	object(w, client.ServiceCIDRs, "", "more", "held back", func(c *networkingv1.ServiceCIDR) bool {
		return ready(c, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating)
	})
	other := svc.DeepCopy()
	other.Name, other.Spec.ClusterIP = "other", "10.99.0.8"
	if _, err := client.Services.In(w.root, "default").Create(ctx, other); !apierrors.IsInvalid(err) {
		t.Errorf("a range that goes gave an address: %v", err)
	}
	w.must(client.Services.In(w.root, "default").Delete(ctx, "s", client.Options{}))
	object(w, client.ServiceCIDRs, "", "more", "gone", func(c *networkingv1.ServiceCIDR) bool { return c == nil })
}

// Nodes are told for how long their kubelets may keep what they read, again
// when somebody takes it away.
func TestNodesHaveATTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nodes := client.Nodes.In(w.root, "")
	_, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	w.must(err)
	has := func(n *corev1.Node) bool { return n != nil && n.Annotations[corev1.ObjectTTLAnnotationKey] == "0" }
	object(w, client.Nodes, "", "n", "annotated", has)
	_, err = nodes.Mutate(t.Context(), "n", "", func(n *corev1.Node) (bool, error) {
		delete(n.Annotations, corev1.ObjectTTLAnnotationKey)
		return true, nil
	})
	w.must(err)
	object(w, client.Nodes, "", "n", "annotated again", has)
}

// A token that the cluster made of its own accord and nobody used is marked,
// and deleted once it has been marked for long; one that a user asked for
// stays.
func TestUnusedTokensGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *manager.Config) { cfg.UnusedTokens = time.Nanosecond })
	ns, ctx := w.namespace("tokens"), t.Context()
	const invalid = "kubernetes.io/legacy-token-invalid-since"
	sa, err := client.ServiceAccounts.In(w.root, ns).Get(ctx, "default")
	w.must(err)
	// The date is that of the day; noted since yesterday at the latest.
	_, err = client.ConfigMaps.In(w.root, "kube-system").Mutate(ctx, "kube-apiserver-legacy-service-account-token-tracking", "", func(m *corev1.ConfigMap) (bool, error) {
		m.Data["since"] = time.Now().AddDate(0, 0, -2).UTC().Format(time.DateOnly)
		return true, nil
	})
	w.must(err)
	secret := func(name string, labels map[string]string) {
		_, err := client.Secrets.In(w.root, ns).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels, Annotations: map[string]string{
				corev1.ServiceAccountNameKey: sa.Name, corev1.ServiceAccountUIDKey: string(sa.UID),
			}},
			Type: corev1.SecretTypeServiceAccountToken,
		})
		w.must(err)
	}
	secret("fresh", nil)
	secret("marked", map[string]string{invalid: time.Now().AddDate(0, 0, -2).UTC().Format(time.DateOnly)})
	secret("asked-for", map[string]string{invalid: "2001-01-01"})
	_, err = client.ServiceAccounts.In(w.root, ns).Mutate(ctx, "default", "", func(a *corev1.ServiceAccount) (bool, error) {
		a.Secrets = []corev1.ObjectReference{{Name: "fresh"}, {Name: "marked"}}
		return true, nil
	})
	w.must(err)
	object(w, client.Secrets, ns, "marked", "gone", func(s *corev1.Secret) bool { return s == nil })
	object(w, client.Secrets, ns, "fresh", "marked", func(s *corev1.Secret) bool { return s != nil && s.Labels[invalid] != "" || s == nil })
	if _, err := client.Secrets.In(w.root, ns).Get(ctx, "asked-for"); err != nil {
		t.Error(err)
	}
}
