package servicecidr

import (
	"net/netip"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := time.Unix(1e9, 0)
	going := func(ago time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(-ago)} }
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue}
	ending := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Terminating"}
	for name, c := range map[string]struct {
		deleted   *metav1.Time
		finalizer bool
		have      metav1.Condition
		orphans   bool
		finalize  bool
		release   bool
		ready     metav1.ConditionStatus
		again     time.Duration
	}{
		"new":                   {finalize: true, ready: metav1.ConditionTrue},
		"settled":               {finalizer: true, have: ready},
		"finalizer taken away":  {have: ready, finalize: true},
		"deleted, in use":       {deleted: going(time.Hour), finalizer: true, have: ready, orphans: true, ready: metav1.ConditionFalse},
		"deleted, in use still": {deleted: going(time.Hour), finalizer: true, have: ending, orphans: true},
		"deleted just now":      {deleted: going(4 * time.Second), finalizer: true, have: ready, again: 6 * time.Second},
		"deleted":               {deleted: going(time.Minute), finalizer: true, have: ending, release: true},
		"others' finalizers":    {deleted: going(time.Minute), have: ready},
	} {
		cidr := &networkingv1.ServiceCIDR{}
		cidr.DeletionTimestamp = c.deleted
		if c.finalizer {
			cidr.Finalizers = []string{"other", Finalizer}
		}
		if c.have.Type != "" {
			cidr.Status.Conditions = []metav1.Condition{c.have}
		}
		p := Decide(cidr, func() bool { return c.orphans }, now)
		var status metav1.ConditionStatus
		if p.Ready != nil {
			status = p.Ready.Status
		}
		if p.Finalize != c.finalize || p.Release != c.release || status != c.ready || p.Again != c.again {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestOrphans(t *testing.T) {
	of := netip.MustParsePrefix
	for name, c := range map[string]struct {
		going, others []netip.Prefix
		address       string
		want          bool
	}{
		"elsewhere":      {[]netip.Prefix{of("10.0.0.0/24")}, nil, "10.1.0.1", false},
		"alone":          {[]netip.Prefix{of("10.0.0.0/24")}, []netip.Prefix{of("10.1.0.0/24")}, "10.0.0.7", true},
		"in a wider one": {[]netip.Prefix{of("10.0.0.0/24")}, []netip.Prefix{of("10.0.0.0/16")}, "10.0.0.7", false},
		"beside":         {[]netip.Prefix{of("10.0.0.0/16")}, []netip.Prefix{of("10.0.0.0/24")}, "10.0.1.7", true},
		"second family":  {[]netip.Prefix{of("10.0.0.0/16"), of("fd00::/112")}, []netip.Prefix{of("10.0.0.0/16")}, "fd00::1", true},
	} {
		if got := Orphans(c.going, c.others, []netip.Addr{netip.MustParseAddr(c.address)}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
