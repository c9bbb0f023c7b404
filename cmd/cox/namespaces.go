package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/datapath/nat"
)

// wires is the bridge that joins the further nodes to this one.
type wires struct {
	bridge string
	host   netip.Prefix // this machine's address on it, with the range
}

// address is that of the node with a number.
func (w *wires) address(n int) netip.Addr {
	a := w.host.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// wireName is the name of a link of this cluster: the kernel allows 15 bytes.
func (c *config) wireName(kind string) string {
	sum := sha256.Sum256([]byte(c.Name))
	return fmt.Sprintf("cb%x%s", sum[:4], kind)
}

// ensureBridge makes the bridge with its address. The range is chosen once and
// kept with the data, since certificates carry the addresses.
func (c *config) ensureBridge() (*wires, error) {
	path := c.dir("nodes", "range")
	raw, err := os.ReadFile(path)
	var host netip.Prefix
	if err == nil {
		host, err = netip.ParsePrefix(strings.TrimSpace(string(raw)))
	} else if errors.Is(err, os.ErrNotExist) {
		if host, err = freeRange(); err == nil {
			if err = os.MkdirAll(c.dir("nodes"), 0o700); err == nil {
				err = os.WriteFile(path, []byte(host.String()+"\n"), 0o600)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	w := &wires{bridge: c.wireName(""), host: host}
	link, err := netlink.LinkByName(w.bridge)
	if err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = w.bridge
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", w.bridge, err)
		}
		if link, err = netlink.LinkByName(w.bridge); err != nil {
			return nil, err
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: host.Addr().AsSlice(), Mask: net.CIDRMask(host.Bits(), 32)}}
	if err := errors.Join(netlink.AddrReplace(link, addr), netlink.LinkSetUp(link)); err != nil {
		return nil, fmt.Errorf("configure bridge %s: %w", w.bridge, err)
	}
	if err := c.sendAsNode(link, host.Masked()); err != nil {
		return nil, fmt.Errorf("route over bridge %s: %w", w.bridge, err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return nil, err
	}
	return w, nat.Masquerade(c.natTable(), host.Masked(), netip.MustParsePrefix(c.ClusterCIDR))
}

// sendAsNode has what this machine itself sends to the further nodes carry
// this node's own address, by which they know it, and not the bridge's. They
// answer by their default route, which ends here. A node address that is not
// this machine's cannot be sent from: then the bridge's stays.
func (c *config) sendAsNode(bridge netlink.Link, nodes netip.Prefix) error {
	ip, err := netip.ParseAddr(c.NodeIP)
	if err != nil || !ip.Is4() || ip.IsLoopback() {
		return nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(ip.AsSlice()) }) {
		return nil
	}
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: bridge.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL,
		Dst: &net.IPNet{IP: nodes.Addr().AsSlice(), Mask: net.CIDRMask(nodes.Bits(), 32)}, Src: ip.AsSlice(),
	})
}

// natTable is the nftables table that gives the further nodes' packets to the
// outside this machine's address.
func (c *config) natTable() string { return c.cgroup() + "-nodes" }

// removeBridge takes away what ensureBridge made; the nodes' links go with
// their namespaces.
func (c *config) removeBridge() error {
	err := nat.Remove(c.natTable())
	if link, lerr := netlink.LinkByName(c.wireName("")); lerr == nil {
		err = errors.Join(err, netlink.LinkDel(link))
	}
	return err
}

// freeRange finds a range that this machine does not reach yet; the first
// address is this machine's.
func freeRange() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, err
	}
	base := nodeSubnets.Addr().As4()
	for third := range 256 {
		base[2], base[3] = byte(third), 1
		p := netip.PrefixFrom(netip.AddrFrom4(base), 24)
		taken := false
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			ones, _ := r.Dst.Mask.Size()
			if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && ones > 0 && netip.PrefixFrom(a, ones).Overlaps(p) {
				taken = true
			}
		}
		if !taken {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free range in %v", nodeSubnets)
}

func (m *machine) pin(kind string) string { return filepath.Join(m.pins, kind) }

// ensureMachine makes a node's namespaces and its link, unless they are there.
func (c *config) ensureMachine(m machine, w *wires) error {
	for _, d := range []string{m.data, m.run, m.pins} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if pinned(m.pin("mnt")) && pinned(m.pin("net")) {
		return nil
	}
	if err := m.unpin(); err != nil {
		return err
	}
	if err := os.MkdirAll(m.pins, 0o700); err != nil {
		return err
	}
	// Mount namespaces can be pinned only where mounts do not propagate.
	if err := unix.Mount(m.pins, m.pins, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", m.pins, err)
	}
	if err := unix.Mount("", m.pins, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, kind := range machineNamespaces {
		if err := os.WriteFile(m.pin(kind), nil, 0o600); err != nil {
			return err
		}
	}
	if err := m.unshare(); err != nil {
		return err
	}
	return m.wire(w, c.wireName(fmt.Sprintf("-%d", m.number)))
}

// machineNamespaces are those that a node has for itself. The last one gives
// it its own host name, which pods in the host's network go by.
var machineNamespaces = []string{"mnt", "net", "uts"}

// pinned says that a namespace is mounted on the file.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// unshare makes the namespaces in a thread that ends with them, and pins them
// from outside.
func (m *machine) unshare() error {
	made, pinnedNow, done := make(chan string), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- onOwnThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS); err != nil {
				return fmt.Errorf("make namespaces: %w", err)
			}
			if err := unix.Sethostname([]byte(m.name)); err != nil {
				return fmt.Errorf("name the host %s: %w", m.name, err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return fmt.Errorf("detach the mounts: %w", err)
			}
			if err := unix.Mount(m.data, "/var/lib", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount /var/lib: %w", err)
			}
			if err := unix.Mount(m.run, "/run", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount /run: %w", err)
			}
			// Volumes that a kubelet mounts must reach the containers.
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
				return fmt.Errorf("share the mounts: %w", err)
			}
			made <- fmt.Sprintf("/proc/%d/task/%d/ns/", os.Getpid(), unix.Gettid())
			<-pinnedNow
			return nil
		})
	}()
	select {
	case err := <-done:
		return err
	case from := <-made:
		var err error
		for _, kind := range machineNamespaces {
			if e := unix.Mount(from+kind, m.pin(kind), "", unix.MS_BIND, ""); e != nil {
				err = errors.Join(err, fmt.Errorf("pin the %s namespace: %w", kind, e))
			}
		}
		close(pinnedNow)
		return errors.Join(err, <-done)
	}
}

// wire gives the node's network namespace its link to the bridge.
func (m *machine) wire(w *wires, hostEnd string) error {
	ns, err := netns.GetFromPath(m.pin("net"))
	if err != nil {
		return err
	}
	defer ns.Close()
	bridge, err := netlink.LinkByName(w.bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Flags = hostEnd, bridge.Attrs().Index, net.FlagUp
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return fmt.Errorf("make link %s: %w", hostEnd, err)
	}
	// With br_netfilter the bridge itself forwards what a node sends to this
	// machine's node ports: also back to where it came from, if the pod is there.
	end, err := netlink.LinkByName(hostEnd)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHairpin(end, true); err != nil {
		return fmt.Errorf("let the bridge send back to %s: %w", hostEnd, err)
	}
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: w.address(m.number).AsSlice(), Mask: net.CIDRMask(w.host.Bits(), 32)}}
	return errors.Join(inside.LinkSetUp(lo), inside.AddrReplace(eth, addr), inside.LinkSetUp(eth),
		inside.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: w.host.Addr().AsSlice()}))
}

// start starts a command in the node's namespaces, from a thread that has
// entered them and ends afterwards.
func (m *machine) start(cmd *exec.Cmd) error {
	return onOwnThread(func() error {
		// A thread that shares its root folder cannot change mounts.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		for _, n := range []struct {
			kind string
			flag int
		}{{"uts", unix.CLONE_NEWUTS}, {"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} {
			if n.kind == "uts" && !pinned(m.pin(n.kind)) {
				continue // an earlier version made the node, whose pods still run
			}
			f, err := os.Open(m.pin(n.kind))
			if err != nil {
				return err
			}
			err = unix.Setns(int(f.Fd()), n.flag)
			f.Close()
			if err != nil {
				return fmt.Errorf("enter the %s namespace: %w", n.kind, err)
			}
		}
		return cmd.Start()
	})
}

// onOwnThread runs f on a thread that ends with it, so that whatever f does to
// its namespaces stays without consequence. It is never the main thread, which
// does not end and whose namespaces /proc/self shows.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			done <- onOwnThread(f) // while this one holds the main thread
			goruntime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked: the thread ends
	}()
	return <-done
}

// unpin lets the namespaces go; they end with the last process in them.
func (m *machine) unpin() error {
	var errs []error
	for _, path := range []string{m.pin("uts"), m.pin("net"), m.pin("mnt"), m.pins} {
		for {
			err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err == nil {
				continue // mounted more than once
			}
			if err != unix.EINVAL && err != unix.ENOENT {
				errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
			}
			break
		}
	}
	return errors.Join(append(errs, os.RemoveAll(m.pins))...)
}
