package actions

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/client"
)

// ledger keeps addresses by name and knows some ranges.
type ledger struct {
	client.Interface
	taken map[string]bool
	cidrs []runtime.Object
}

func (l *ledger) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	if req.Verb == client.List {
		return &client.Result{List: &client.ListResult{Items: l.cidrs}}, nil
	}
	if l.taken[req.Name] {
		return nil, apierrors.NewAlreadyExists(req.Resource.GroupResource(), req.Name)
	}
	l.taken[req.Name] = true
	return &client.Result{Object: req.Object}, nil
}

func serviceRange(name string, ready metav1.ConditionStatus, deleted bool, cidrs ...string) *networkingv1.ServiceCIDR {
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	c.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: ready}}
	if deleted {
		c.DeletionTimestamp = &metav1.Time{}
	}
	return c
}

// The server's own range is used up first, then those of ServiceCIDRs of the
// family that are ready; nothing is taken from one that is going.
func TestFurtherRanges(t *testing.T) {
	l := &ledger{taken: map[string]bool{}, cidrs: []runtime.Object{
		serviceRange("kubernetes", metav1.ConditionTrue, false, "10.0.0.0/30", "fd00::/126"),
		serviceRange("going", metav1.ConditionTrue, true, "10.0.1.0/30"),
		serviceRange("not-ready", metav1.ConditionFalse, false, "10.0.2.0/30"),
		serviceRange("more", metav1.ConditionTrue, false, "10.0.3.0/30"),
	}}
	r, svc := &ipRange{prefix: netip.MustParsePrefix("10.0.0.0/30"), c: l}, &corev1.Service{}
	var got []string
	for range 4 {
		ip, err := r.next(t.Context(), svc, false)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ip.String())
	}
	for i, ip := range got {
		if want := []string{"10.0.0.", "10.0.0.", "10.0.3.", "10.0.3."}[i]; !strings.HasPrefix(ip, want) {
			t.Errorf("address %d is %s, want one of %s0/30", i, ip, want)
		}
	}
	if ip, err := r.next(t.Context(), svc, false); !errors.Is(err, errFull) {
		t.Errorf("got %v, %v of full ranges", ip, err)
	}
	clear(l.taken)
	for ip, ok := range map[string]bool{"10.0.0.1": true, "10.0.3.2": true, "10.0.1.1": false, "10.0.2.1": false, "10.9.0.1": false} {
		err := r.take(t.Context(), netip.MustParseAddr(ip), svc, false)
		if (err == nil) != ok {
			t.Errorf("%s: %v", ip, err)
		}
		if !ok && !strings.HasSuffix(err.Error(), "the provided network does not match the current range") {
			t.Errorf("%s: %v", ip, err)
		}
	}
}
