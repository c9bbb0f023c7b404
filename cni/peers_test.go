package cni

import (
	"net/netip"
	"reflect"
	"testing"
)

func TestHops(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	conf := &Conf{Name: "n", PodCIDRs: []netip.Prefix{prefix("10.60.0.0/24")}, ClusterCIDRs: []netip.Prefix{prefix("10.60.0.0/16")}}
	onLink := func(a netip.Addr) (int, bool) { return 7, prefix("192.0.2.0/24").Contains(a) }
	peer := func(name, cidr string, addrs ...string) Peer {
		p := Peer{Name: name, PodCIDRs: []netip.Prefix{prefix(cidr)}}
		for _, a := range addrs {
			p.Addrs = append(p.Addrs, addr(a))
		}
		return p
	}
	direct := func(dst, via string) hop { return hop{dst: prefix(dst), via: addr(via), link: 7} }
	tunnel := func(node, dst, gw, under string) hop {
		return hop{dst: prefix(dst), via: addr(gw), mac: overlayMAC(node), under: addr(under)}
	}
	for name, tc := range map[string]struct {
		always bool
		peers  []Peer
		want   []hop
	}{
		"alone":                      {},
		"neighbour":                  {false, []Peer{peer("b", "10.60.1.0/24", "192.0.2.5")}, []hop{direct("10.60.1.0/24", "192.0.2.5")}},
		"neighbour, overlay always":  {true, []Peer{peer("b", "10.60.1.0/24", "192.0.2.5")}, []hop{tunnel("b", "10.60.1.0/24", "10.60.1.1", "192.0.2.5")}},
		"elsewhere":                  {false, []Peer{peer("b", "10.60.1.0/24", "198.51.100.5")}, []hop{tunnel("b", "10.60.1.0/24", "10.60.1.1", "198.51.100.5")}},
		"neighbour by one address":   {false, []Peer{peer("b", "10.60.1.0/24", "198.51.100.5", "192.0.2.5")}, []hop{direct("10.60.1.0/24", "192.0.2.5")}},
		"range that is not pods'":    {false, []Peer{peer("b", "0.0.0.0/0", "192.0.2.5"), peer("c", "198.51.100.0/24", "192.0.2.6")}, nil},
		"our own range":              {false, []Peer{peer("b", "10.60.0.0/25", "192.0.2.5")}, nil},
		"range of another peer":      {false, []Peer{peer("b", "10.60.1.0/24", "192.0.2.5"), peer("c", "10.60.1.128/25", "192.0.2.6")}, []hop{direct("10.60.1.0/24", "192.0.2.5")}},
		"sorted by range":            {false, []Peer{peer("b", "10.60.2.0/24", "192.0.2.5"), peer("c", "10.60.1.0/24", "192.0.2.6")}, []hop{direct("10.60.1.0/24", "192.0.2.6"), direct("10.60.2.0/24", "192.0.2.5")}},
		"of no family that is ours":  {false, []Peer{peer("b", "10.60.1.0/24", "2001:db8::5")}, nil},
		"whole cluster is no node's": {false, []Peer{peer("b", "10.60.0.0/16", "192.0.2.5")}, nil},
	} {
		got := hops(conf, Overlay{ID: 1, Local: addr("192.0.2.4"), Self: "a", Always: tc.always}, tc.peers, onLink)
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}
