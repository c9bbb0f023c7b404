package cni

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Peer is another node, as the pod network sees it.
type Peer struct {
	Name string
	// Addrs are those under which other nodes reach it.
	Addrs []netip.Addr
	// PodCIDRs are the ranges of its pods.
	PodCIDRs []netip.Prefix
}

// Overlay is the VXLAN (RFC 7348) that carries packets to nodes which are not
// on a link of this one. There is one link per network and namespace.
type Overlay struct {
	// ID is the network's number, 24 bits, and the same on every node.
	ID int
	// Local is this node's address, Self its name.
	Local netip.Addr
	Self  string
	// Always uses the overlay also for neighbours.
	Always bool
}

const (
	// protocol marks our routes in the kernel's tables.
	protocol = netlink.RouteProtocol(99)
	// overlayPort is VXLAN's by IANA.
	overlayPort = 4789
	// OverlayOverhead is what the tunnel takes of the MTU over IPv4.
	OverlayOverhead = 50
)

// OverlayMTU is the MTU of pods whose packets to other nodes all take the
// overlay.
func OverlayMTU() int {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 1500 - OverlayOverhead
	}
	defer host.Close()
	return uplinkMTU(host) - OverlayOverhead
}

// overlayName is the name of the network's VXLAN link.
func (c *Conf) overlayName() string {
	sum := sha256.Sum256([]byte(c.Name))
	return fmt.Sprintf("vx-%x", sum[:5])
}

// overlayMAC is the hardware address of a node's end of the overlay. It
// follows from the name, so that nodes need not tell each other.
func overlayMAC(node string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("overlay/" + node))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// hop is the way to one pod range of a peer.
type hop struct {
	dst netip.Prefix
	via netip.Addr
	// link is the neighbour's; 0 is the overlay, in which via is the peer's
	// gateway, mac its hardware address and under its address outside.
	link  int
	mac   net.HardwareAddr
	under netip.Addr
}

// hops plans the ways to the peers. onLink tells on which link an address is
// a neighbour. A range outside the cluster's, or one that overlaps our own,
// is nobody's to claim and left out.
func hops(c *Conf, o Overlay, peers []Peer, onLink func(netip.Addr) (int, bool)) []hop {
	var out []hop
	for _, p := range peers {
		for _, dst := range p.PodCIDRs {
			dst = dst.Masked()
			inside := slices.ContainsFunc(c.ClusterCIDRs, func(r netip.Prefix) bool { return r.Bits() <= dst.Bits() && r.Contains(dst.Addr()) })
			mine := slices.ContainsFunc(c.PodCIDRs, dst.Overlaps)
			taken := slices.ContainsFunc(out, func(h hop) bool { return h.dst.Overlaps(dst) })
			if !inside || mine || taken {
				continue
			}
			if h, ok := way(o, p, dst, onLink); ok {
				out = append(out, h)
			}
		}
	}
	slices.SortFunc(out, func(a, b hop) int {
		return cmp.Or(a.dst.Addr().Compare(b.dst.Addr()), cmp.Compare(a.dst.Bits(), b.dst.Bits()))
	})
	return out
}

func way(o Overlay, p Peer, dst netip.Prefix, onLink func(netip.Addr) (int, bool)) (hop, bool) {
	if !o.Always {
		for _, a := range p.Addrs {
			if a.Is4() != dst.Addr().Is4() {
				continue
			}
			if link, ok := onLink(a); ok {
				return hop{dst: dst, via: a, link: link}, true
			}
		}
	}
	for _, a := range p.Addrs {
		if a.Is4() == o.Local.Is4() {
			return hop{dst: dst, via: Gateway(dst), mac: overlayMAC(p.Name), under: a}, true
		}
	}
	return hop{}, false
}

// SyncPeers makes the node's routes to other nodes' pods these and no others.
// c.PodCIDRs and c.ClusterCIDRs must be set. It runs in the caller's network
// namespace; only one may run at a time.
func SyncPeers(c Conf, o Overlay, peers []Peer) error {
	want := hops(&c, o, peers, neighbour)
	var overlay netlink.Link
	if slices.ContainsFunc(want, func(h hop) bool { return h.link == 0 }) {
		link, err := ensureOverlay(&c, o)
		if err != nil {
			return fmt.Errorf("pod network: overlay: %w", err)
		}
		overlay = link
	} else if err := deleteLink(c.overlayName()); err != nil {
		return fmt.Errorf("pod network: overlay: %w", err)
	}
	var errs []error
	if overlay != nil {
		errs = append(errs, syncNeighbours(overlay.Attrs().Index, want))
	}
	errs = append(errs, removeRoutes(&c, func(dst netip.Prefix) bool {
		return slices.ContainsFunc(want, func(h hop) bool { return h.dst == dst })
	}))
	for _, h := range want {
		r := &netlink.Route{Dst: prefixNet(h.dst), Gw: h.via.AsSlice(), LinkIndex: h.link, Protocol: protocol}
		if h.link == 0 {
			r.LinkIndex = overlay.Attrs().Index
			r.SetFlag(netlink.FLAG_ONLINK)
		}
		if own, ok := ownGateway(&c, h.dst); ok {
			r.Src = own.AsSlice()
		}
		if err := netlink.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("route to %v through %v: %w", h.dst, h.via, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	return nil
}

// ownGateway is the node's own address in the pod network of dst's family:
// what the node sends to pods comes from it, so that answers take the same
// way back.
func ownGateway(c *Conf, dst netip.Prefix) (netip.Addr, bool) {
	for _, p := range c.PodCIDRs {
		if p.Addr().Is4() == dst.Addr().Is4() {
			return Gateway(p), true
		}
	}
	return netip.Addr{}, false
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// neighbour tells on which link a is reached without a router.
func neighbour(a netip.Addr) (int, bool) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) != 1 {
		return 0, false
	}
	r := routes[0]
	if r.Gw != nil || r.Via != nil || r.Type == unix.RTN_LOCAL || r.LinkIndex == 0 {
		return 0, false
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil || link.Attrs().Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
		return 0, false
	}
	return r.LinkIndex, true
}

// ensureOverlay makes the VXLAN link, anew if it is another's.
func ensureOverlay(c *Conf, o Overlay) (netlink.Link, error) {
	name := c.overlayName()
	old, err := netlink.LinkByName(name)
	if err == nil {
		vx, ok := old.(*netlink.Vxlan)
		if ok && vx.VxlanId == o.ID && vx.Port == overlayPort && vx.SrcAddr.Equal(o.Local.AsSlice()) && bytes.Equal(vx.HardwareAddr, overlayMAC(o.Self)) {
			return old, addOverlayAddrs(c, old)
		}
		if err := netlink.LinkDel(old); err != nil {
			return nil, err
		}
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, err
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, overlayMAC(o.Self)
	attrs.MTU = uplinkMTU(host) - OverlayOverhead
	if o.Local.Is6() {
		attrs.MTU -= 20
	}
	vx := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: o.ID, SrcAddr: o.Local.AsSlice(), Port: overlayPort}
	if err := netlink.LinkAdd(vx); err != nil {
		return nil, fmt.Errorf("make link %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if o.Local.Is4() {
		// A node's own packets may come in here and be answered outside.
		if err := writeSysctl("2", "net/ipv4/conf/"+name+"/rp_filter"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if err := addOverlayAddrs(c, link); err != nil {
		return nil, err
	}
	return link, netlink.LinkSetUp(link)
}

// addOverlayAddrs gives the link the node's addresses in the pod network,
// which is what masquerading on it picks.
func addOverlayAddrs(c *Conf, link netlink.Link) error {
	for _, p := range c.PodCIDRs {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(Gateway(p)), Scope: int(netlink.SCOPE_LINK)}); err != nil {
			return fmt.Errorf("give the overlay %v: %w", Gateway(p), err)
		}
	}
	return nil
}

// syncNeighbours makes the overlay's tables (who has an address, where a
// hardware address is) those of the hops.
func syncNeighbours(link int, want []hop) error {
	var errs []error
	wanted := map[string]bool{}
	for _, h := range want {
		if h.link != 0 {
			continue
		}
		arp := &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, Family: family(h.via), IP: h.via.AsSlice(), HardwareAddr: h.mac}
		fdb := &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: h.under.AsSlice(), HardwareAddr: h.mac}
		for _, n := range []*netlink.Neigh{arp, fdb} {
			wanted[neighKey(n)] = true
			if err := netlink.NeighSet(n); err != nil {
				errs = append(errs, fmt.Errorf("neighbour %v at %v: %w", h.via, h.under, err))
			}
		}
	}
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		have, err := netlink.NeighList(link, fam)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, n := range have {
			n.Family = fam
			if n.State&netlink.NUD_PERMANENT == 0 || wanted[neighKey(&n)] || n.IP.IsMulticast() {
				continue
			}
			if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("forget neighbour %v: %w", n.IP, err))
			}
		}
	}
	return errors.Join(errs...)
}

func neighKey(n *netlink.Neigh) string {
	return fmt.Sprintf("%d %s %s", n.Family, n.IP, n.HardwareAddr)
}

// removeRoutes takes away our routes into the cluster's ranges but those that
// keep wants.
func removeRoutes(c *Conf, keep func(netip.Prefix) bool) error {
	var errs []error
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(fam, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range routes {
			dst, ok := prefixOf(r.Dst)
			ours := ok && slices.ContainsFunc(c.ClusterCIDRs, func(p netip.Prefix) bool { return p.Overlaps(dst) })
			if !ours || keep(dst) {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route to %v: %w", dst, err))
			}
		}
	}
	return errors.Join(errs...)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// purgePeers removes the overlay and the routes to other nodes.
func purgePeers(c *Conf) error {
	return errors.Join(deleteLink(c.overlayName()), removeRoutes(c, func(netip.Prefix) bool { return false }))
}
