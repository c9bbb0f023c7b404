package lb

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNetNS runs f in a network namespace of its own, with loopback up and the
// given addresses on it.
func inNetNS(t *testing.T, addrs []string, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and nftables")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		ns, err := netns.New()
		if err != nil {
			t.Errorf("new network namespace: %v", err)
			return
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		for _, a := range addrs {
			if err == nil {
				var addr *netlink.Addr
				if addr, err = netlink.ParseAddr(a); err == nil {
					err = netlink.AddrAdd(lo, addr)
				}
			}
		}
		if err == nil {
			err = uplink()
		}
		if err != nil {
			t.Errorf("prepare the namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

// uplink gives the namespace a way out, as a real node has one: refusals are
// not delivered for packets routed to the loopback interface.
func uplink() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up1"}); err != nil {
		return err
	}
	for _, name := range []string{"up0", "up1"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return err
		}
		if name == "up0" {
			_, all, _ := net.ParseCIDR("0.0.0.0/0")
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: all, Src: net.ParseIP("10.42.0.9"), Scope: netlink.SCOPE_LINK}); err != nil {
				return err
			}
		}
	}
	return nil
}

// answer serves its own address to every connection.
func answer(t *testing.T, addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, addr)
			c.Close()
		}
	}()
}

// dial must stay on the namespace's thread, so it uses a plain socket call
// through the net package, which connects on the calling goroutine.
func dial(addr string) (string, error) {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestConnectionsFollowTheRules(t *testing.T) {
	inNetNS(t, []string{"10.42.0.5/32", "10.42.0.6/32", "10.42.0.9/32", "192.168.77.1/32"}, func() {
		answer(t, "10.42.0.5:8080")
		answer(t, "10.42.0.6:8080")
		table, err := NewNFT(NFTConfig{Name: "t", Pods: netip.MustParsePrefix("10.42.0.0/16"), Services: netip.MustParsePrefix("10.43.0.0/16")})
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		rule := Rule{
			ID: "web", Name: "default/web", Protocol: TCP,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("10.43.0.10"), Port: 80}, {Port: 30080, External: true}},
			Internal:  []netip.AddrPort{ap("10.42.0.5:8080"), ap("10.42.0.6:8080")},
			External:  []netip.AddrPort{ap("10.42.0.5:8080"), ap("10.42.0.6:8080")},
		}
		empty := Rule{ID: "none", Protocol: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.43.0.11"), Port: 80}}}
		if err := table.Reset([]Rule{rule, empty}); err != nil {
			t.Error(err)
			return
		}
		reached := func(addr string) map[string]bool {
			out := map[string]bool{}
			for range 40 {
				got, err := dial(addr)
				if err != nil {
					t.Errorf("%s: %v", addr, err)
					return nil
				}
				out[got] = true
			}
			return out
		}
		if got := reached("10.43.0.10:80"); len(got) != 2 {
			t.Errorf("cluster IP reached %v, want both backends", got)
		}
		if got := reached("192.168.77.1:30080"); len(got) != 2 {
			t.Errorf("node port reached %v, want both backends", got)
		}
		if _, err := dial("10.43.0.11:80"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a frontend without backends was not refused: %v", err)
		}
		if _, err := dial("10.43.0.12:80"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an unknown address of the service range was not refused: %v", err)
		}

		rule.Internal = rule.Internal[:1]
		rule.Frontends = rule.Frontends[:1]
		if err := table.Apply([]Rule{rule}, nil); err != nil {
			t.Error(err)
			return
		}
		if got := reached("10.43.0.10:80"); len(got) != 1 || !got["10.42.0.5:8080"] {
			t.Errorf("after taking a backend away: reached %v", got)
		}
		if _, err := dial("192.168.77.1:30080"); err == nil {
			t.Error("a node port that was taken away still answers")
		}

		rule.Affinity = time.Hour
		rule.Internal = []netip.AddrPort{ap("10.42.0.5:8080"), ap("10.42.0.6:8080")}
		if err := table.Apply([]Rule{rule}, nil); err != nil {
			t.Error(err)
			return
		}
		if got := reached("10.43.0.10:80"); len(got) != 1 {
			t.Errorf("with affinity one client reached %v", got)
		}
		if err := table.Apply(nil, []string{"web", "none"}); err != nil {
			t.Error(err)
			return
		}
		if _, err := dial("10.43.0.10:80"); err == nil {
			t.Error("a removed rule still answers")
		}
		if chains, err := table.conn.ListChainsOfTableFamily(table.fam.table); err != nil || len(chains) != 10 {
			t.Errorf("%d chains left after the rules went (%v), want the 10 of the skeleton", len(chains), err)
		}
		if err := table.Purge(); err != nil {
			t.Error(err)
		}
		if tables, err := table.conn.ListTables(); err != nil || len(tables) != 0 {
			t.Errorf("tables left after the purge: %v %v", tables, err)
		}
	})
}

func TestLocalTraffic(t *testing.T) {
	inNetNS(t, []string{"10.42.0.5/32", "10.42.0.9/32", "192.168.77.1/32"}, func() {
		answer(t, "10.42.0.5:8080")
		table, err := NewNFT(NFTConfig{Name: "t", Pods: netip.MustParsePrefix("10.42.0.0/16")})
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		err = table.Reset([]Rule{{
			ID: "web", Protocol: TCP, ExternalLocal: true,
			Frontends: []Frontend{{Addr: netip.MustParseAddr("192.168.77.9"), Port: 80, External: true, Guarded: true}},
			Internal:  []netip.AddrPort{ap("10.42.0.5:8080")},
			External:  []netip.AddrPort{ap("10.42.0.5:8080")},
			Sources:   []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			Affinity:  time.Minute,
		}})
		if err != nil {
			t.Error(err)
			return
		}
		if got, err := dial("192.168.77.9:80"); err != nil || got != "10.42.0.5:8080" {
			t.Errorf("load balancer address: %q, %v", got, err)
		}
	})
}

// TestOwnAddress has a backend talk to itself: under another address where a
// Service leads it there, whose answers must come back through the Service's
// address, and under its own otherwise.
func TestOwnAddress(t *testing.T) {
	inNetNS(t, []string{"10.42.0.5/32", "10.42.0.9/32"}, func() {
		// As a node's own: not on the loopback interface.
		up, err := netlink.LinkByName("up0")
		if err == nil {
			err = netlink.AddrAdd(up, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 77, 6), Mask: net.CIDRMask(24, 32)}})
		}
		if err != nil {
			t.Error(err)
			return
		}
		l, err := net.Listen("tcp", "192.168.77.6:8080")
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
		table, err := NewNFT(NFTConfig{Name: "t", Pods: netip.MustParsePrefix("10.42.0.0/16"), Services: netip.MustParsePrefix("10.43.0.0/16")})
		if err != nil {
			t.Error(err)
			return
		}
		defer table.Close()
		if err := table.Reset([]Rule{{
			ID: "web", Protocol: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.43.0.10"), Port: 80}},
			Internal: []netip.AddrPort{ap("192.168.77.6:8080")},
		}}); err != nil {
			t.Error(err)
			return
		}
		from := func(to string) string {
			c, err := (&net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP("192.168.77.6")}}).Dial("tcp", to)
			if err != nil {
				t.Errorf("%s: %v", to, err)
				return ""
			}
			defer c.Close()
			b, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("%s: %v", to, err)
			}
			return string(b)
		}
		if got := from("192.168.77.6:8080"); got != "192.168.77.6" {
			t.Errorf("a backend sees its own connection come from %q", got)
		}
		if got := from("10.43.0.10:80"); got == "192.168.77.6" {
			t.Errorf("a backend that a Service led to itself sees %q", got)
		}
	})
}
