package cni

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// linkPrefix begins the names of all host ends; a firewall may rely on it.
const linkPrefix = "cox"

// hostMAC is the hardware address of every host end: each is alone on its
// link, so they need not differ.
var hostMAC = net.HardwareAddr{0x02, 'c', 'o', 'x', 0, 1}

// hostName is the name of an attachment's host end.
func hostName(o owner) string {
	sum := sha256.Sum256([]byte(o.container + "/" + o.ifName))
	return fmt.Sprintf("%s%x", linkPrefix, sum[:6])
}

// link is a pod's connection.
type link struct {
	hostName, podName string
	podMAC            net.HardwareAddr
	mtu               int
	addrs             []netip.Addr
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// attach makes the veth pair and gives both ends what they need.
func attach(c *pluginConf, netnsPath string, who owner, addrs []netip.Addr) (*link, error) {
	ns, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", netnsPath, err)
	}
	defer ns.Close()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", netnsPath, err)
	}
	defer pod.Close()

	l := &link{hostName: hostName(who), podName: who.ifName, mtu: c.MTU, addrs: addrs}
	sum := sha256.Sum256([]byte(who.container))
	l.podMAC = net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
	if l.mtu == 0 {
		l.mtu = uplinkMTU(host)
	}
	// Left by an ADD that was cut off.
	if old, err := host.LinkByName(l.hostName); err == nil {
		if err := host.LinkDel(old); err != nil {
			return nil, fmt.Errorf("delete left-over link %s: %w", l.hostName, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Flags = l.hostName, l.mtu, hostMAC, net.FlagUp
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: l.podName, PeerHardwareAddr: l.podMAC, PeerMTU: uint32(l.mtu), PeerNamespace: netlink.NsFd(ns)}
	if err := host.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make link %s: %w", l.hostName, err)
	}
	if err := l.configurePod(pod, &c.Conf); err != nil {
		return nil, fmt.Errorf("configure %s in the pod: %w", l.podName, err)
	}
	if err := l.configureHost(host, &c.Conf); err != nil {
		return nil, fmt.Errorf("configure %s: %w", l.hostName, err)
	}
	if b := c.RuntimeConfig.Bandwidth; b != nil {
		if err := limit(host, pod, l, b); err != nil {
			return nil, fmt.Errorf("limit the bandwidth of %s: %w", l.hostName, err)
		}
	}
	return l, nil
}

// configurePod gives the pod's end its addresses and routes everything
// through the host.
func (l *link) configurePod(h *netlink.Handle, c *Conf) error {
	if lo, err := h.LinkByName("lo"); err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(lo); err != nil {
			return err
		}
	}
	dev, err := h.LinkByName(l.podName)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(dev); err != nil {
		return err
	}
	index := dev.Attrs().Index
	for i, a := range l.addrs {
		gw := Gateway(c.PodCIDRs[i])
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else is on the link
		}
		if err := h.AddrReplace(dev, addr); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
		if err := h.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: gw.AsSlice(), HardwareAddr: hostMAC, Family: family(a)}); err != nil {
			return fmt.Errorf("neighbour %v: %w", gw, err)
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipNet(gw)}); err != nil {
			return fmt.Errorf("route to %v: %w", gw, err)
		}
		any := &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: any, Gw: gw.AsSlice(), Src: a.AsSlice()}); err != nil {
			return fmt.Errorf("default route through %v: %w", gw, err)
		}
	}
	return nil
}

// configureHost routes the pod's addresses to its link. The node's own
// connections to the pod come from its address in the pod CIDR.
func (l *link) configureHost(h *netlink.Handle, c *Conf) error {
	dev, err := h.LinkByName(l.hostName)
	if err != nil {
		return err
	}
	index := dev.Attrs().Index
	for i, a := range l.addrs {
		if err := h.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: l.podMAC, Family: family(a)}); err != nil {
			return fmt.Errorf("neighbour %v: %w", a, err)
		}
		route := &netlink.Route{LinkIndex: index, Dst: ipNet(a), Src: Gateway(c.PodCIDRs[i]).AsSlice()}
		if a.Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %v: %w", a, err)
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// uplinkMTU is the MTU of the default route's link, else Ethernet's.
func uplinkMTU(h *netlink.Handle) int {
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.RouteListFiltered(f, &netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		if err != nil {
			continue
		}
		for _, r := range routes {
			if dev, err := h.LinkByIndex(r.LinkIndex); err == nil && dev.Attrs().MTU > 0 {
				return dev.Attrs().MTU
			}
		}
	}
	return 1500
}

// deleteLink deletes a host end, and with it the pod's; a missing one is no
// error.
func deleteLink(name string) error {
	dev, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkDel(dev); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// verify finds the pod's link with its addresses and the host's routes.
func verify(netnsPath string, who owner, addrs []netip.Addr) error {
	ns, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netnsPath, err)
	}
	defer ns.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer pod.Close()
	dev, err := pod.LinkByName(who.ifName)
	if err != nil {
		return fmt.Errorf("link %s in the pod: %w", who.ifName, err)
	}
	have := map[string]bool{}
	list, err := pod.AddrList(dev, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range list {
		have[a.IP.String()] = true
	}
	hostEnd, err := netlink.LinkByName(hostName(who))
	if err != nil {
		return fmt.Errorf("link %s: %w", hostName(who), err)
	}
	for _, a := range addrs {
		if !have[a.String()] {
			return fmt.Errorf("the pod has lost its address %v", a)
		}
		routes, err := netlink.RouteListFiltered(family(a), &netlink.Route{LinkIndex: hostEnd.Attrs().Index, Dst: ipNet(a)}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		if err != nil {
			return err
		}
		if len(routes) == 0 {
			return fmt.Errorf("the route to %v is missing", a)
		}
	}
	return nil
}

// limit shapes what goes to the pod at the host's end and what comes from it
// at the pod's. Rates are in bits per second, bursts in bits.
func limit(host, pod *netlink.Handle, l *link, b *bandwidth) error {
	shape := func(h *netlink.Handle, name string, rate, burst uint64) error {
		if rate == 0 {
			return nil
		}
		dev, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		bytes := rate / 8
		// At least what a timer tick of 4 ms lets through, at most 2 GiB.
		buffer := min(max(burst/8, bytes/250, 16<<10), 1<<31-1)
		return h.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       bytes,
			Buffer:     uint32(float64(buffer) / float64(bytes) * netlink.TickInUsec() * 1e6),
			Limit:      uint32(min(bytes/40+buffer, 1<<32-1)), // 25 ms of queue
		})
	}
	if err := shape(host, l.hostName, b.IngressRate, b.IngressBurst); err != nil {
		return err
	}
	return shape(pod, l.podName, b.EgressRate, b.EgressBurst)
}

// writeSysctl sets a kernel parameter unless it has the value already, which
// also lets it pass where /proc/sys is read only.
func writeSysctl(value string, path ...string) error {
	p := filepath.Join(append([]string{"/proc/sys"}, path...)...)
	if old, err := os.ReadFile(p); err == nil && string(old) == value+"\n" {
		return nil
	}
	if err := os.WriteFile(p, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", p, value, err)
	}
	return nil
}
