package controllers_test

import (
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/actions"
	"github.com/coxswain/cox/client"
)

// A server that was killed after it took the address of its own Service and
// before it made that can start again. What is another's stays another's.
func TestKilledBetweenAddressAndService(t *testing.T) {
	w := newWorld(t)
	const ip = "10.43.0.1"
	again := func() error {
		return actions.Bootstrap(t.Context(), w.root, actions.BootstrapConfig{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, Port: 6443})
	}
	services, addresses := client.Services.In(w.root, "default"), client.IPAddresses.In(w.root, "")
	left := func(service string) {
		t.Helper()
		w.must(services.Delete(t.Context(), "kubernetes", client.Options{}))
		if err := addresses.Delete(t.Context(), ip, client.Options{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		_, err := addresses.Create(t.Context(), &networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
			Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: service}},
		})
		w.must(err)
	}
	left("kubernetes")
	w.must(again())
	if s, err := services.Get(t.Context(), "kubernetes"); err != nil || s.Spec.ClusterIP != ip {
		t.Errorf("%+v, %v", s, err)
	}
	if a, err := addresses.Get(t.Context(), ip); err != nil || a.Spec.ParentRef.Name != "kubernetes" {
		t.Errorf("%+v, %v", a, err)
	}
	left("other")
	if err := again(); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("another Service's address was taken: %v", err)
	}
}
