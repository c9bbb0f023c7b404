package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Setup prepares the node for its pods: forwarding, the node's own address in
// each pod CIDR, the nftables table. It may be repeated, and takes over what
// changed. It runs in the caller's network namespace and needs root.
func Setup(c Conf) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	state, err := openIPAM(c.StateDir)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	defer state.close()
	if err := setup(&c); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	return nil
}

// rangesFile holds the pod CIDRs that the node has had, one per line, for
// Purge to find its addresses by.
const rangesFile = "ranges"

func (c *Conf) rememberRanges() error {
	path := filepath.Join(c.StateDir, rangesFile)
	known := c.ranges()
	var text strings.Builder
	for _, p := range known {
		fmt.Fprintln(&text, p)
	}
	return os.WriteFile(path, []byte(text.String()), 0o600)
}

// ranges are the present pod CIDRs and the remembered ones.
func (c *Conf) ranges() []netip.Prefix {
	out := append([]netip.Prefix(nil), c.PodCIDRs...)
	b, _ := os.ReadFile(filepath.Join(c.StateDir, rangesFile))
	for _, line := range strings.Fields(string(b)) {
		if p, err := netip.ParsePrefix(line); err == nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func setup(c *Conf) error {
	if err := c.rememberRanges(); err != nil {
		return err
	}
	if err := enableForwarding(c.PodCIDRs); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, p := range c.PodCIDRs {
		// On lo, because pods' links come and go; the kernel answers for it
		// on all of them.
		if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(Gateway(p)), Label: label(p)}); err != nil {
			return fmt.Errorf("give the node %v: %w", Gateway(p), err)
		}
	}
	return setupTable(c)
}

// label marks IPv4 addresses in lists; IPv6 has none.
func label(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "lo:cox"
	}
	return ""
}

// ensureSetup does Setup's work if the node has not got its addresses, which
// it sets last to be lost.
func ensureSetup(c *Conf) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	have, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, p := range c.PodCIDRs {
		found := false
		for _, a := range have {
			found = found || a.IP.Equal(Gateway(p).AsSlice())
		}
		if !found {
			return setup(c)
		}
	}
	return nil
}

func enableForwarding(ranges []netip.Prefix) error {
	for _, p := range ranges {
		if p.Addr().Is4() {
			if err := writeSysctl("1", "net/ipv4/ip_forward"); err != nil {
				return err
			}
			continue
		}
		// A router takes no advertisements, unless told to: do not lose the
		// default route of an uplink that lives on them.
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			path := "net/ipv6/conf/" + strings.ReplaceAll(l.Attrs().Name, "/", ".") + "/accept_ra"
			if b, err := os.ReadFile("/proc/sys/" + path); err == nil && string(b) == "1\n" {
				if err := writeSysctl("2", path); err != nil {
					return err
				}
			}
		}
		if err := writeSysctl("1", "net/ipv6/conf/all/forwarding"); err != nil {
			return err
		}
	}
	return nil
}

// forwarding tells what keeps pods from being routed.
func forwarding(ranges []netip.Prefix) error {
	for _, p := range ranges {
		path := "/proc/sys/net/ipv4/ip_forward"
		if p.Addr().Is6() {
			path = "/proc/sys/net/ipv6/conf/all/forwarding"
		}
		// Before the first pod, nobody may have switched it on yet; only a
		// missing family is final.
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("the kernel does not route %v: %w", p, err)
		}
	}
	return nil
}

// Purge removes the network from the caller's network namespace: links,
// addresses, routes to other nodes (those within c.ClusterCIDRs), the nftables
// table and the state. c needs nothing else but Name and StateDir.
// Kernel parameters stay, as others may rely on them by now. It goes on after
// an error and returns all.
func Purge(c Conf) error {
	var errs []error
	if _, err := os.Stat(c.StateDir); err == nil {
		state, err := openIPAM(c.StateDir)
		if err != nil {
			return fmt.Errorf("pod network: %w", err)
		}
		leases, err := state.leases()
		errs = append(errs, err)
		for _, l := range leases {
			errs = append(errs, deleteLink(hostName(l.owner)))
		}
		state.close()
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		for _, p := range c.ranges() {
			err := netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(Gateway(p)), Label: label(p)})
			if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, fmt.Errorf("take %v from the node: %w", Gateway(p), err))
			}
		}
	}
	errs = append(errs, purgePeers(&c), deleteTable(c.table()), os.RemoveAll(c.StateDir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	return nil
}
