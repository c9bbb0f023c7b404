package lb

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Conntrack forgets UDP flows in the kernel of this network namespace. It is
// safe for concurrent use and needs CAP_NET_ADMIN.
type Conntrack struct{}

// ForgetBackends drops the UDP flows that end at any of the backends.
func (Conntrack) ForgetBackends(gone []netip.AddrPort) error {
	return forget(gone, func(f *netlink.ConntrackFlow) netlink.IPTuple {
		return netlink.IPTuple{DstIP: f.Reverse.SrcIP, DstPort: f.Reverse.SrcPort}
	})
}

// ForgetFrontends drops the UDP flows that were addressed to any of the
// frontends; one without an address means the port on any.
func (Conntrack) ForgetFrontends(frontends []netip.AddrPort) error {
	return forget(frontends, func(f *netlink.ConntrackFlow) netlink.IPTuple { return f.Forward })
}

// flows is a conntrack filter: UDP flows whose far end is in a set.
type flows struct {
	ends map[netip.AddrPort]bool
	end  func(f *netlink.ConntrackFlow) netlink.IPTuple
}

// MatchConntrackFlow says whether to delete the flow.
func (m *flows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != UDP {
		return false
	}
	t := m.end(f)
	ip, ok := netip.AddrFromSlice(t.DstIP)
	if !ok {
		return false
	}
	return m.ends[netip.AddrPortFrom(ip.Unmap(), t.DstPort)] || m.ends[netip.AddrPortFrom(netip.Addr{}, t.DstPort)]
}

func forget(list []netip.AddrPort, end func(f *netlink.ConntrackFlow) netlink.IPTuple) error {
	m := &flows{ends: map[netip.AddrPort]bool{}, end: end}
	v4, v6 := false, false
	for _, ap := range list {
		m.ends[ap] = true
		v4 = v4 || !ap.Addr().Is6()
		v6 = v6 || !ap.Addr().Is4()
	}
	if v4 {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, m); err != nil {
			return err
		}
	}
	if v6 {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V6, m); err != nil {
			return err
		}
	}
	return nil
}
