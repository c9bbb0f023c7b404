package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The test binary is the plugin too.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// node is a network namespace that plays a host, and a CNI runtime in it.
type node struct {
	t    *testing.T
	ns   netns.NsHandle
	conf Conf
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

func newNode(t *testing.T, cidrs ...string) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	n := &node{t: t, ns: newNS(t)}
	dir := t.TempDir()
	n.conf = Conf{Name: "test", StateDir: filepath.Join(dir, "state"), PodCIDRs: prefixes(t, cidrs...), ClusterCIDRs: prefixes(t, "10.42.0.0/16")}
	if err := os.Symlink(must(os.Executable())(t), filepath.Join(dir, Plugin)); err != nil {
		t.Fatal(err)
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{dir}, filepath.Join(dir, "cache"), nil)
	if err := WriteConfig(filepath.Join(dir, "net.d"), n.conf); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromFile(filepath.Join(dir, "net.d", fileName))
	if err != nil {
		t.Fatal(err)
	}
	n.list = list
	n.in(n.ns, func() {
		lo := must(netlink.LinkByName("lo"))(t)
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Error(err)
		}
		if err := Setup(n.conf); err != nil {
			t.Error(err)
		}
	})
	return n
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newNS(t *testing.T) netns.NsHandle {
	t.Helper()
	type result struct {
		ns  netns.NsHandle
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.New()
		c <- result{ns, err}
	}()
	r := <-c
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	return r.ns
}

// in runs f on a thread in a network namespace.
func (n *node) in(ns netns.NsHandle, f func()) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(ns)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

type pod struct {
	ns  netns.NsHandle
	rt  *libcni.RuntimeConf
	ips []netip.Addr
}

func (n *node) add(id string, ports ...map[string]any) *pod {
	n.t.Helper()
	p := &pod{ns: newNS(n.t)}
	p.rt = &libcni.RuntimeConf{ContainerID: id, IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(p.ns)), CapabilityArgs: map[string]any{}}
	if len(ports) > 0 {
		p.rt.CapabilityArgs["portMappings"] = ports
	}
	n.in(n.ns, func() {
		res, err := n.cni.AddNetworkList(context.Background(), n.list, p.rt)
		if err != nil {
			n.t.Error(err)
			return
		}
		r, err := current.NewResultFromResult(res)
		if err != nil {
			n.t.Error(err)
			return
		}
		for _, ip := range r.IPs {
			a, _ := netip.AddrFromSlice(ip.Address.IP)
			p.ips = append(p.ips, a.Unmap())
		}
	})
	if n.t.Failed() {
		n.t.FailNow()
	}
	return p
}

func (n *node) del(p *pod) {
	n.t.Helper()
	n.in(n.ns, func() {
		if err := n.cni.DelNetworkList(context.Background(), n.list, p.rt); err != nil {
			n.t.Error(err)
		}
	})
}

// serve answers every connection to the address in ns with the peer's address.
func (n *node) serve(ns netns.NsHandle, addr string) {
	n.t.Helper()
	var l net.Listener
	var err error
	n.in(ns, func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	}()
}

// dial connects from ns and returns which address the server saw.
func (n *node) dial(ns netns.NsHandle, addr string) (string, error) {
	n.t.Helper()
	var said []byte
	var err error
	n.in(ns, func() {
		var c net.Conn
		if c, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", addr); err == nil {
			defer c.Close()
			said, err = io.ReadAll(c)
		}
	})
	return string(said), err
}

func TestPodsReachEachOtherAndTheNode(t *testing.T) {
	n := newNode(t, "10.42.1.0/24", "fd42:1::/64")
	a, b := n.add("a"), n.add("b")
	for i, ip := range b.ips {
		addr := net.JoinHostPort(ip.String(), "80")
		n.serve(b.ns, addr)
		if got, err := n.dial(a.ns, addr); err != nil || got != a.ips[i].String() {
			t.Errorf("pod to pod over %v: seen as %q, %v", ip, got, err)
		}
		gw := Gateway(n.conf.PodCIDRs[i]).String()
		if got, err := n.dial(n.ns, addr); err != nil || got != gw {
			t.Errorf("node to pod over %v: seen as %q, want %s, %v", ip, got, gw, err)
		}
		n.serve(n.ns, net.JoinHostPort(gw, "81"))
		if got, err := n.dial(a.ns, net.JoinHostPort(gw, "81")); err != nil || got != a.ips[i].String() {
			t.Errorf("pod to node over %v: seen as %q, %v", ip, got, err)
		}
	}
	n.in(n.ns, func() {
		if err := n.cni.CheckNetworkList(context.Background(), n.list, a.rt); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		if err := n.cni.GetStatusNetworkList(context.Background(), n.list); err != nil {
			t.Errorf("STATUS: %v", err)
		}
	})
	n.in(a.ns, func() {
		dev := must(netlink.LinkByName("eth0"))(t)
		if err := netlink.AddrDel(dev, &netlink.Addr{IPNet: ipNet(a.ips[0])}); err != nil {
			t.Error(err)
		}
	})
	n.in(n.ns, func() {
		if err := n.cni.CheckNetworkList(context.Background(), n.list, a.rt); err == nil {
			t.Error("CHECK does not see a lost address")
		}
	})
}

func TestMasqueradeToTheOutsideOnly(t *testing.T) {
	n := newNode(t, "10.42.1.0/24")
	outside := newNS(t)
	n.in(n.ns, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "up"
		v := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(outside)}
		if err := netlink.LinkAdd(v); err != nil {
			t.Error(err)
			return
		}
		up := must(netlink.LinkByName("up"))(t)
		_ = netlink.AddrAdd(up, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}})
		_ = netlink.LinkSetUp(up)
	})
	n.in(outside, func() {
		dev := must(netlink.LinkByName("eth0"))(t)
		_ = netlink.AddrAdd(dev, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 2), Mask: net.CIDRMask(24, 32)}})
		// Another node's pod range behind it.
		_ = netlink.AddrAdd(dev, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 42, 9, 9), Mask: net.CIDRMask(32, 32)}})
		_ = netlink.LinkSetUp(dev)
		_, pods, _ := net.ParseCIDR("10.42.1.0/24")
		if err := netlink.RouteAdd(&netlink.Route{Dst: pods, Gw: net.IPv4(192, 0, 2, 1)}); err != nil {
			t.Error(err)
		}
	})
	n.in(n.ns, func() {
		_, other, _ := net.ParseCIDR("10.42.9.0/24")
		if err := netlink.RouteAdd(&netlink.Route{Dst: other, Gw: net.IPv4(192, 0, 2, 2)}); err != nil {
			t.Error(err)
		}
	})
	a := n.add("a")
	n.serve(outside, "192.0.2.2:80")
	n.serve(outside, "10.42.9.9:80")
	if got, err := n.dial(a.ns, "192.0.2.2:80"); err != nil || got != "192.0.2.1" {
		t.Errorf("outside sees %q, %v", got, err)
	}
	if got, err := n.dial(a.ns, "10.42.9.9:80"); err != nil || got != a.ips[0].String() {
		t.Errorf("a pod of another node sees %q, %v", got, err)
	}
}

func TestHostPorts(t *testing.T) {
	n := newNode(t, "10.42.1.0/24")
	a := n.add("a", map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		map[string]any{"hostPort": 8081, "containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1"})
	b := n.add("b")
	n.serve(a.ns, ":80")
	n.serve(n.ns, "127.0.0.1:9999")
	gw := Gateway(n.conf.PodCIDRs[0]).String()
	for name, d := range map[string]struct {
		from netns.NsHandle
		addr string
		ok   bool
	}{
		"node by its address":            {n.ns, gw + ":8080", true},
		"node by loopback":               {n.ns, "127.0.0.1:8080", true},
		"node by loopback only":          {n.ns, "127.0.0.1:8081", true},
		"another pod":                    {b.ns, gw + ":8080", true},
		"the pod itself":                 {a.ns, gw + ":8080", true},
		"port of loopback from a pod":    {b.ns, gw + ":8081", false},
		"loopback of the node from pods": {a.ns, gw + ":9999", false},
	} {
		if got, err := n.dial(d.from, d.addr); (err == nil) != d.ok {
			t.Errorf("%s: seen as %q, %v", name, got, err)
		}
	}
	n.del(a)
	if _, err := n.dial(n.ns, gw+":8080"); err == nil {
		t.Error("the host port outlives its pod")
	}
	n.in(n.ns, func() {
		c, _ := openTable(&n.conf)
		for _, ch := range []*nftables.Chain{c.hostports, c.hairpin} {
			if rules, err := c.conn.GetRules(c.t, ch); err != nil || len(rules) != 0 {
				t.Errorf("chain %s has %d rules left, %v", ch.Name, len(rules), err)
			}
		}
	})
}

func TestDelGCAndPurgeLeaveNothing(t *testing.T) {
	n := newNode(t, "10.42.1.0/24")
	a, b, c := n.add("a"), n.add("b"), n.add("c", map[string]any{"hostPort": 8080, "containerPort": 80})
	n.del(a)
	n.del(a) // a second time is no error
	state := func() (names []string) {
		entries, err := os.ReadDir(n.conf.StateDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := netip.ParseAddr(e.Name()); err == nil {
				names = append(names, e.Name())
			}
		}
		return names
	}
	links := func() (names []string) {
		n.in(n.ns, func() {
			list, err := netlink.LinkList()
			if err != nil {
				t.Error(err)
			}
			for _, l := range list {
				if strings.HasPrefix(l.Attrs().Name, linkPrefix) {
					names = append(names, l.Attrs().Name)
				}
			}
		})
		return names
	}
	if s, l := state(), links(); len(s) != 2 || len(l) != 2 {
		t.Errorf("after DEL: addresses %v, links %v", s, l)
	}
	n.in(n.ns, func() {
		args := &libcni.GCArgs{}
		_ = json.Unmarshal([]byte(`{"ValidAttachments":[{"containerID":"b","ifname":"eth0"}]}`), args)
		if err := n.cni.GCNetworkList(context.Background(), n.list, args); err != nil {
			t.Errorf("GC: %v", err)
		}
	})
	if s, l := state(), links(); len(s) != 1 || s[0] != b.ips[0].String() || len(l) != 1 {
		t.Errorf("after GC without %v: addresses %v, links %v", c.ips, s, l)
	}
	n.in(n.ns, func() {
		bare := Conf{Name: n.conf.Name, StateDir: n.conf.StateDir}
		if err := Purge(bare); err != nil {
			t.Error(err)
		}
		lo := must(netlink.LinkByName("lo"))(t)
		addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
		if err != nil || len(addrs) != 1 {
			t.Errorf("addresses of lo: %v, %v", addrs, err)
		}
		if err := Purge(n.conf); err != nil {
			t.Errorf("purge again: %v", err)
		}
		tables, err := (&nftables.Conn{}).ListTables()
		if err != nil || len(tables) != 0 {
			t.Errorf("tables %v, %v", tables, err)
		}
	})
	if l := links(); len(l) != 0 {
		t.Errorf("links %v", l)
	}
}

// TestRemovalsWaitAlone has pods join while the removal of others is under
// way: they wait for none of them.
func TestRemovalsWaitAlone(t *testing.T) {
	n := newNode(t, "10.42.1.0/24")
	old := n.add("old")
	turn, err := lockFile(n.conf.StateDir, removalLock)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.del(old)
	}()
	n.add("new")
	lease := filepath.Join(n.conf.StateDir, old.ips[0].String())
	if _, err := os.Stat(lease); err != nil {
		t.Errorf("a removal did not wait for the one before it: %v", err)
	}
	turn.Close()
	<-done
	if _, err := os.Stat(lease); !os.IsNotExist(err) {
		t.Errorf("the address is still taken: %v", err)
	}
}

func TestBandwidthIsShaped(t *testing.T) {
	n := newNode(t, "10.42.1.0/24")
	n.list.Bytes = nil // not used below
	p := &pod{ns: newNS(t)}
	p.rt = &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(p.ns)),
		CapabilityArgs: map[string]any{"bandwidth": map[string]any{"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 800_000}}}
	n.in(n.ns, func() {
		if _, err := n.cni.AddNetworkList(context.Background(), n.list, p.rt); err != nil {
			t.Error(err)
		}
	})
	rate := func(ns netns.NsHandle, name string) (rate uint64) {
		n.in(ns, func() {
			dev, err := netlink.LinkByName(name)
			if err != nil {
				t.Error(err)
				return
			}
			qs, _ := netlink.QdiscList(dev)
			for _, q := range qs {
				if tbf, ok := q.(*netlink.Tbf); ok {
					rate = tbf.Rate
				}
			}
		})
		return rate
	}
	if got := rate(n.ns, hostName(owner{"a", "eth0"})); got != 1_000_000 {
		t.Errorf("to the pod: %d bytes per second", got)
	}
	if got := rate(p.ns, "eth0"); got != 2_000_000 {
		t.Errorf("from the pod: %d bytes per second", got)
	}
}
