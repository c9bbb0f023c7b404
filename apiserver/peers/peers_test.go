package peers

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/store/etcd"
)

// upstreams is what Kubernetes' API server writes.
const upstreams = "k8s\x00\n\x0f\n\x02v1\x12\tEndpoints\x12$\n\x11\n\x00\x12\x00\x1a\x00\"\x00*\x002\x008\xe5\x01B\x00\x12\x0f\n\r\n\t127.0.0.1\x1a\x00\x1a\x00\"\x00"

func TestValues(t *testing.T) {
	if at, err := decode([]byte(upstreams), 443); err != nil || at.String() != "127.0.0.1:443" {
		t.Errorf("upstream's value: %v, %v", at, err)
	}
	for _, text := range []string{"10.0.0.1:6443", "[fd00::1]:443"} {
		at := netip.MustParseAddrPort(text)
		b, err := encode(at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(b, 1); err != nil || got != at {
			t.Errorf("%v came back as %v, %v", at, got, err)
		}
	}
}

func TestSubsets(t *testing.T) {
	at := netip.MustParseAddrPort
	got := subsets([]netip.AddrPort{at("10.0.0.1:443"), at("10.0.0.2:443"), at("10.0.0.1:6443")})
	var text []string
	for _, s := range got {
		for _, a := range s.Addresses {
			text = append(text, a.IP)
		}
		text = append(text, s.Ports[0].Name)
	}
	if want := []string{"10.0.0.1", "10.0.0.2", "https", "10.0.0.1", "https"}; !slices.Equal(text, want) {
		t.Errorf("%v, want %v", text, want)
	}
}

// Who is alone on its etcd knows that the servers it finds there are gone, and
// says rarely that it lives.
func TestAlone(t *testing.T) {
	backend, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	for _, alone := range []bool{false, true} {
		if _, err := backend.Put(t.Context(), Prefix+"127.0.0.1", upstreams); err != nil {
			t.Fatal(err)
		}
		m := New(Config{Backend: backend, Endpoint: netip.MustParseAddrPort("10.0.0.1:443"), Alone: alone})
		if err := m.live(t.Context()); err != nil {
			t.Fatal(err)
		}
		living, _, err := m.Living(t.Context())
		if want := map[bool]int{false: 2, true: 1}[alone]; err != nil || len(living) != want {
			t.Errorf("alone %v: %v live, %v", alone, living, err)
		}
		lease, err := backend.TimeToLive(t.Context(), m.lease)
		if err != nil || time.Duration(lease.GrantedTTL)*time.Second != m.ttl() {
			t.Errorf("alone %v: a lease of %d s, %v", alone, lease.GrantedTTL, err)
		}
	}
}

func TestExpired(t *testing.T) {
	now := time.Unix(10000, 0)
	for _, tc := range []struct {
		renewed, lasts int64
		want           bool
	}{{9000, 3600, false}, {6000, 3600, true}, {0, 3600, true}, {9999, 0, true}} {
		l := &coordinationv1.Lease{}
		if tc.renewed > 0 {
			l.Spec.RenewTime = ptr.To(metav1.NewMicroTime(time.Unix(tc.renewed, 0)))
		}
		if tc.lasts > 0 {
			l.Spec.LeaseDurationSeconds = ptr.To(int32(tc.lasts))
		}
		if got := expired(l, now); got != tc.want {
			t.Errorf("renewed at %d for %d: %v", tc.renewed, tc.lasts, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(upstreams))
	f.Add([]byte("k8s\x00"))
	f.Fuzz(func(t *testing.T, value []byte) {
		at, err := decode(value, 443)
		if err == nil && !at.IsValid() {
			t.Error("an address that is none")
		}
	})
}
