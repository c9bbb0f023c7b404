package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// farm is a network of API servers by address, each of which answers, is
// stuck or does not exist.
type farm struct {
	cert  tls.Certificate
	trust *tls.Config
	state map[string]string
	asked []string
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spec := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"kubernetes.default.svc"}, NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, spec, spec, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &farm{
		cert:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		trust: &tls.Config{RootCAs: pool, ServerName: "kubernetes.default.svc"}, state: map[string]string{},
	}
}

func (f *farm) dial(_ context.Context, _, address string) (net.Conn, error) {
	f.asked = append(f.asked, address)
	if f.state[address] == "" {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	here, there := net.Pipe()
	if f.state[address] == "well" {
		go func() { _ = tls.Server(there, &tls.Config{Certificates: []tls.Certificate{f.cert}}).Handshake() }()
	}
	return here, nil
}

// connected returns the servers that were asked for one connection, in order.
func (f *farm) connected(t *testing.T, s *servers) []string {
	t.Helper()
	f.asked = nil
	conn, err := s.connect(t.Context(), f.trust)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	return f.asked
}

func TestServersInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := newFarm(t), filepath.Join(t.TempDir(), "servers.json")
		s := openServers("a:1", path, f.dial, slog.New(slog.DiscardHandler))
		f.state["a:1"] = "well"
		want := func(what string, asked ...string) {
			t.Helper()
			if got := f.connected(t, s); !slices.Equal(got, asked) {
				t.Errorf("%s: asked %v, want %v", what, got, asked)
			}
		}
		want("the one told of", "a:1")
		s.learn([]string{"c:1", "b:1"})
		want("that in use goes first", "a:1")
		f.state["a:1"], f.state["b:1"] = "stuck", "well"
		want("a stuck one gives way", "a:1", "b:1")
		want("the next connection goes to who answered", "b:1")
		s.learn([]string{"b:1", "d:1"})
		f.state["b:1"], f.state["d:1"] = "", "well"
		want("one that is gone gives way", "b:1", "d:1")
		s.learn(nil)
		want("no servers is no news", "d:1")

		f.state["d:1"] = ""
		if _, err := s.connect(t.Context(), f.trust); err == nil {
			t.Error("connected to nobody")
		} else if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Op != "dial" {
			t.Errorf("an error that does not ask for another try: %v", err)
		}

		// The next start knows them all, whichever it tries first.
		again := openServers("a:1", path, f.dial, slog.New(slog.DiscardHandler))
		slices.Sort(again.all)
		if !slices.Equal(again.all, []string{"a:1", "b:1", "d:1"}) {
			t.Errorf("servers of the next start: %v", again.all)
		}
		if err := os.WriteFile(path, []byte("[x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if again = openServers("a:1", path, f.dial, slog.New(slog.DiscardHandler)); !slices.Equal(again.all, []string{"a:1"}) {
			t.Errorf("servers after a damaged file: %v", again.all)
		}
	})
}

// Who has not the cluster's certificate is no server of it.
func TestStrangerIsNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, stranger := newFarm(t), newFarm(t)
		stranger.state["a:1"], f.state["b:1"] = "well", "well"
		s := openServers("a:1", filepath.Join(t.TempDir(), "servers.json"), func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "a:1" {
				return stranger.dial(ctx, network, address)
			}
			return f.dial(ctx, network, address)
		}, slog.New(slog.DiscardHandler))
		s.learn([]string{"b:1"})
		s.all = []string{"a:1", "b:1"}
		if got := f.connected(t, s); !slices.Equal(got, []string{"b:1"}) || !slices.Equal(stranger.asked, []string{"a:1"}) {
			t.Errorf("asked %v and %v", stranger.asked, got)
		}
	})
}

func TestServerAddresses(t *testing.T) {
	slice := func(port string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Name: &port, Port: ptr.To[int32](6443)}}, Endpoints: endpoints}
	}
	ready := func(is *bool, addresses ...string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: addresses, Conditions: discoveryv1.EndpointConditions{Ready: is}}
	}
	got := serverAddresses([]*discoveryv1.EndpointSlice{
		slice("https", ready(ptr.To(true), "192.0.2.1"), ready(ptr.To(false), "192.0.2.2"), ready(nil, "192.0.2.3")),
		slice("https", ready(nil, "2001:db8::1")),
		slice("metrics", ready(nil, "192.0.2.9")),
		{Ports: []discoveryv1.EndpointPort{{}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.8"}}}},
	})
	if want := []string{"192.0.2.1:6443", "192.0.2.3:6443", "[2001:db8::1]:6443"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}
