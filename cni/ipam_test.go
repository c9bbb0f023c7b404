package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func prefixes(t *testing.T, s ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func open(t *testing.T, dir string) *ipam {
	t.Helper()
	s, err := openIPAM(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIPAMGivesEveryAddressOnceAndThenSaysFull(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.close()
	r := prefixes(t, "10.0.0.0/29", "fd00::/125")
	seen := map[netip.Addr]bool{}
	// .0 is the network, .1 the gateway, .7 the broadcast address.
	for n := range 5 {
		got, err := s.take(r, owner{string(rune('a' + n)), "eth0"}, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range got {
			if seen[a] || a == Gateway(r[0]) || a == Gateway(r[1]) || a == netip.MustParseAddr("10.0.0.7") {
				t.Errorf("pod %d got %v", n, a)
			}
			seen[a] = true
		}
	}
	if _, err := s.take(r, owner{"z", "eth0"}, false); !errors.Is(err, errFull) {
		t.Fatalf("a full range gave %v", err)
	}
	// The failed one left nothing taken of either family.
	leases, err := s.leases()
	if err != nil || len(leases) != 10 {
		t.Errorf("%d leases, %v", len(leases), err)
	}
	if err := s.release(netip.MustParseAddr("10.0.0.4")); err != nil {
		t.Fatal(err)
	}
	got, err := s.take(r[:1], owner{"z", "eth0"}, true)
	if err != nil || got[0] != netip.MustParseAddr("10.0.0.4") {
		t.Errorf("the only free address: got %v, %v", got, err)
	}
}

func TestIPAMLetsAnAddressRestAndRepeatsForTheSameOwner(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	r := prefixes(t, "10.0.0.0/24")
	first, err := s.take(r, owner{"a", "eth0"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.release(first[0]); err != nil {
		t.Fatal(err)
	}
	s.close()
	s = open(t, dir)
	defer s.close()
	second, err := s.take(r, owner{"b", "eth0"}, false)
	if err != nil || second[0] == first[0] {
		t.Errorf("an address just freed was given again: %v, %v", second, err)
	}
	if _, err := s.take(r, owner{"b", "eth0"}, false); err != nil {
		t.Fatal(err)
	}
	leases, err := s.leases()
	if err != nil || len(leases) != 1 || leases[0].owner != (owner{"b", "eth0"}) {
		t.Errorf("a repeated ADD holds %v, %v", leases, err)
	}
}

func TestIPAMSurvivesACutOffFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10.0.0.2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	defer s.close()
	got, err := s.take(prefixes(t, "10.0.0.0/24"), owner{"a", "eth0"}, false)
	if err != nil || got[0] != netip.MustParseAddr("10.0.0.3") {
		t.Errorf("got %v, %v", got, err)
	}
	leases, err := s.leases()
	if err != nil || len(leases) != 2 {
		t.Errorf("leases %v, %v", leases, err)
	}
}

func TestConfIsChecked(t *testing.T) {
	good := Conf{Name: "cox", StateDir: "/run/x", PodCIDRs: prefixes(t, "10.0.0.0/24")}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Conf){
		"no name":        func(c *Conf) { c.Name = "" },
		"relative state": func(c *Conf) { c.StateDir = "x" },
		"no range":       func(c *Conf) { c.PodCIDRs = nil },
		"two of a kind":  func(c *Conf) { c.PodCIDRs = prefixes(t, "10.0.0.0/24", "10.0.1.0/24") },
		"too small":      func(c *Conf) { c.PodCIDRs = prefixes(t, "10.0.0.0/31") },
	} {
		c := good
		change(&c)
		if c.check() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Addresses is as many as can really be taken.
func TestAddresses(t *testing.T) {
	for _, s := range []string{"10.0.0.0/28", "10.0.0.64/30", "10.0.0.0/29", "fd00::/124", "fd00::/126"} {
		r := netip.MustParsePrefix(s)
		i := &ipam{dir: t.TempDir()}
		n := 0
		for ; n < 100; n++ {
			if _, err := i.take([]netip.Prefix{r}, owner{container: fmt.Sprint("c", n), ifName: "eth0"}, false); err != nil {
				break
			}
		}
		if n != Addresses(r) {
			t.Errorf("%s: %d addresses were given out, want %d", s, n, Addresses(r))
		}
	}
	if n := Addresses(netip.MustParsePrefix("fd00::/64")); n < 1<<20 {
		t.Errorf("a /64 has addresses for %d pods", n)
	}
}
