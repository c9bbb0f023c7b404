package main

import (
	"net/netip"
	"strings"
	"testing"
)

// FuzzSettings takes what the server tells a node of its cluster: it is
// refused, or is what a node can be built on.
func FuzzSettings(f *testing.F) {
	f.Add("10.42.0.0/16", "10.43.0.0/16", "10.43.0.10", "cluster.local", "auto", "7")
	f.Add("fd00::/56", "fd01::/112", "", "a", "always", "16777215")
	f.Add("0.0.0.0/0", "10.43.0.0/31", "x", "a\nnameserver 1.2.3.4", "no", "-1")
	f.Add("10.42.0.0/16", "10.43.0.0/16", "fe80::1%eth0\n", "a b", "auto", "1")
	f.Fuzz(func(t *testing.T, pods, services, dns, domain, overlay, id string) {
		var c config
		if c.adopt(map[string]string{"clusterCIDR": pods, "serviceCIDR": services, "clusterDNS": dns, "clusterDomain": domain, "overlay": overlay, "overlayID": id}) != nil {
			return
		}
		a, err := netip.ParseAddr(c.ClusterDNS)
		if err != nil || a.Zone() != "" {
			t.Errorf("the DNS is at %q", c.ClusterDNS)
		}
		if strings.ContainsAny(c.ClusterDomain, " \t\r\n/") {
			t.Errorf("the domain is %q", c.ClusterDomain)
		}
		if c.OverlayID < 1 || c.OverlayID >= 1<<24 {
			t.Errorf("the overlay is %d", c.OverlayID)
		}
	})
}
