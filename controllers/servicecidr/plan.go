// Package servicecidr keeps the ranges that Services get addresses from: what
// ServiceCIDRs and IPAddresses there are in, conditions and finalizers out. A
// range goes only when no Service would be left without one that holds its
// address (KEP-1880).
package servicecidr

import (
	"net/netip"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Finalizer keeps a ServiceCIDR until no address needs it.
const Finalizer = "networking.k8s.io/service-cidr-finalizer"

// grace is how long a range that is being deleted stays at least: another API
// server may not know yet that it is, and take an address from it.
const grace = 10 * time.Second

// Plan is what is to be done about one ServiceCIDR.
type Plan struct {
	// Finalize adds the finalizer, Release removes it.
	Finalize, Release bool
	// Ready is the condition to write; nil leaves it alone.
	Ready *metav1.Condition
	// Again is when to look again; 0 waits for a change.
	Again time.Duration
}

// Decide makes the plan. orphans reports whether an address would be in no
// other range.
func Decide(c *networkingv1.ServiceCIDR, orphans func() bool, now time.Time) Plan {
	has := false
	for _, f := range c.Finalizers {
		has = has || f == Finalizer
	}
	if c.DeletionTimestamp == nil {
		return Plan{Finalize: !has, Ready: unless(c, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
			Message: "Kubernetes Service CIDR is ready",
		})}
	}
	if !has {
		return Plan{}
	}
	if orphans() {
		return Plan{Ready: unless(c, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse,
			Reason:  networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})}
	}
	if wait := c.DeletionTimestamp.Add(grace).Sub(now); wait > 0 {
		return Plan{Again: wait}
	}
	return Plan{Release: true}
}

// unless returns the condition unless the range has it already.
func unless(c *networkingv1.ServiceCIDR, want metav1.Condition) *metav1.Condition {
	for _, have := range c.Status.Conditions {
		if have.Type == want.Type && have.Status == want.Status && have.Reason == want.Reason {
			return nil
		}
	}
	return &want
}

// Orphans reports whether one of the addresses is in one of the prefixes that
// are to go and in none of the others. An address at the edge of a prefix that
// could not be given out there (the network's own, the broadcast address)
// counts as in it all the same.
func Orphans(going, others []netip.Prefix, addresses []netip.Addr) bool {
	in := func(list []netip.Prefix, a netip.Addr) bool {
		for _, p := range list {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	for _, a := range addresses {
		if in(going, a) && !in(others, a) {
			return true
		}
	}
	return false
}

// prefixes are the ranges of a ServiceCIDR.
func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func overlap(a, b []netip.Prefix) bool {
	for _, p := range a {
		for _, q := range b {
			if p.Overlaps(q) {
				return true
			}
		}
	}
	return false
}
