package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func testConfig(c *clock) Config {
	return Config{
		Hostname: "box", IPs: []net.IP{net.ParseIP("192.0.2.7")}, ServiceIPs: []net.IP{net.ParseIP("10.43.0.1")},
		ExtraSANs: []string{"api.example.com", "203.0.113.9"}, Now: c.now,
	}
}

func ensure(t *testing.T, dir string, c Config) *Bundle {
	t.Helper()
	b, err := Ensure(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Leaf{b.APIServer, b.KubeletClient, b.FrontProxyClient, b.Admin, b.Scheduler, b.ControllerManager, b.CloudController, b.Proxy, b.EtcdServer, b.EtcdPeer, b.EtcdClient} {
		leafCert(t, l)
	}
	return b
}

func leafCert(t *testing.T, l *Leaf) *x509.Certificate {
	t.Helper()
	c, err := l.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestFirstRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	c := &clock{time.Now()}
	b := ensure(t, dir, testConfig(c))

	api := leafCert(t, b.APIServer)
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "box", "192.0.2.7", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "10.43.0.1", "api.example.com", "203.0.113.9"} {
		if _, err := api.Verify(x509.VerifyOptions{Roots: b.CA.Pool(), DNSName: name}); err != nil {
			t.Errorf("API server's certificate for %s: %v", name, err)
		}
	}
	for _, tc := range []struct {
		leaf   *Leaf
		user   string
		groups []string
		ca     *CA
	}{
		{b.Admin, "kubernetes-admin", []string{"system:masters"}, b.CA},
		{b.Scheduler, "system:kube-scheduler", nil, b.CA},
		{b.ControllerManager, "system:kube-controller-manager", nil, b.CA},
		{b.Proxy, "system:kube-proxy", nil, b.CA},
		{b.KubeletClient, "kube-apiserver-kubelet-client", nil, b.CA},
		{b.FrontProxyClient, "front-proxy-client", nil, b.FrontProxyCA},
		{b.EtcdClient, "kube-apiserver-etcd-client", nil, b.EtcdCA},
	} {
		cert := leafCert(t, tc.leaf)
		if cert.Subject.CommonName != tc.user || !slices.Equal(cert.Subject.Organization, tc.groups) {
			t.Errorf("subject %v, want %s %v", cert.Subject, tc.user, tc.groups)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: tc.ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("%s: %v", tc.user, err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: tc.ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
			t.Errorf("%s: a client's certificate may serve", tc.user)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch mode := info.Mode().Perm(); {
		case d.IsDir() && mode != 0o700, strings.HasSuffix(path, ".key") && mode != 0o600:
			t.Errorf("%s has mode %o", path, mode)
		case strings.HasPrefix(d.Name(), "."):
			t.Errorf("%s left behind", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// snapshot returns the content of every file below dir.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func changed(before, after map[string]string) []string {
	var out []string
	for k, v := range after {
		if before[k] != v {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func TestSecondRun(t *testing.T) {
	start := time.Now()
	for name, tc := range map[string]struct {
		do   func(dir string, c *clock, cfg *Config)
		want []string
	}{
		"nothing changes":     {func(string, *clock, *Config) {}, nil},
		"before the renewal":  {func(_ string, c *clock, _ *Config) { c.t = start.Add(LeafLife*2/3 - 24*time.Hour) }, nil},
		"an address is added": {func(_ string, _ *clock, cfg *Config) { cfg.ServiceIPs = append(cfg.ServiceIPs, net.ParseIP("fd00::1")) }, []string{"apiserver.crt", "apiserver.key"}},
		"a node address goes": {func(_ string, _ *clock, cfg *Config) { cfg.IPs = nil }, []string{"apiserver.crt", "apiserver.key", "etcd/peer.crt", "etcd/peer.key", "etcd/server.crt", "etcd/server.key"}},
		"a leaf is torn":      {func(dir string, _ *clock, _ *Config) { _ = os.Truncate(filepath.Join(dir, "admin.crt"), 10) }, []string{"admin.crt", "admin.key"}},
		"a key is another's": {func(dir string, _ *clock, _ *Config) {
			data, _ := os.ReadFile(filepath.Join(dir, "proxy.key"))
			_ = os.WriteFile(filepath.Join(dir, "admin.key"), data, 0o600)
		}, []string{"admin.crt", "admin.key"}},
		"a leaf is lost": {func(dir string, _ *clock, _ *Config) { _ = os.Remove(filepath.Join(dir, "scheduler.crt")) }, []string{"scheduler.crt", "scheduler.key"}},
		"a leaf is of another authority": {func(dir string, c *clock, cfg *Config) {
			other := filepath.Join(filepath.Dir(dir), "other")
			b, _ := Ensure(other, *cfg)
			_, _, _ = b.Admin.Files()
			for _, f := range []string{"admin.crt", "admin.key"} {
				data, _ := os.ReadFile(filepath.Join(other, f))
				_ = os.WriteFile(filepath.Join(dir, f), data, 0o600)
			}
		}, []string{"admin.crt", "admin.key"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			c := &clock{start}
			cfg := testConfig(c)
			ensure(t, dir, cfg)
			before := snapshot(t, dir)
			tc.do(dir, c, &cfg)
			ensure(t, dir, cfg)
			after := snapshot(t, dir)
			if got := changed(before, after); !slices.Equal(got, tc.want) {
				t.Errorf("replaced %v, want %v", got, tc.want)
			}
			if name == "a leaf is of another authority" {
				cert, _ := parseCert([]byte(after["admin.crt"]))
				ca, _ := parseCert([]byte(before["ca.crt"]))
				if err := cert.CheckSignatureFrom(ca); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestRootsAreNeverReplaced(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(dir string, c *clock)
		want  string
	}{
		"key lost": {func(dir string, _ *clock) { os.Remove(filepath.Join(dir, "ca.key")) }, "restore the key from a backup"},
		"torn":     {func(dir string, _ *clock) { os.Truncate(filepath.Join(dir, "ca.crt"), 5) }, "holds no PEM certificate"},
		"mismatch": {func(dir string, _ *clock) {
			os.Rename(filepath.Join(dir, "front-proxy-ca.key"), filepath.Join(dir, "ca.key"))
		}, "do not belong together"},
		"expired":     {func(_ string, c *clock) { c.t = c.t.Add(CALife + time.Hour) }, "expired"},
		"sa key lost": {func(dir string, _ *clock) { os.Remove(filepath.Join(dir, "sa.key")) }, "restore the key from a backup"},
		"sa key torn": {func(dir string, _ *clock) { os.Truncate(filepath.Join(dir, "sa.key"), 30) }, "holds no PEM key"},
		"not a CA": {func(dir string, _ *clock) {
			d, _ := os.ReadFile(filepath.Join(dir, "admin.crt"))
			os.WriteFile(filepath.Join(dir, "ca.crt"), d, 0o644)
		}, "not the certificate of an authority"},
		"etcd CA lost": {func(dir string, _ *clock) { os.Remove(filepath.Join(dir, "etcd", "ca.key")) }, "restore the key from a backup"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			c := &clock{time.Now()}
			ensure(t, dir, testConfig(c))
			tc.spoil(dir, c)
			before := snapshot(t, dir)
			_, err := Ensure(dir, testConfig(c))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			for _, f := range []string{"ca.crt", "ca.key", "sa.key", "sa.pub", "etcd/ca.crt"} {
				if after := snapshot(t, dir); after[f] != before[f] {
					t.Errorf("%s was changed", f)
				}
			}
		})
	}
}

func TestInterruptedFirstRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	c := &clock{time.Now()}
	ensure(t, dir, testConfig(c))
	key := snapshot(t, dir)["ca.key"]
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	b := ensure(t, dir, testConfig(c))
	if snapshot(t, dir)["ca.key"] != key {
		t.Error("the key was replaced")
	}
	if err := leafCert(t, b.Admin).CheckSignatureFrom(b.CA.Cert); err != nil {
		t.Error(err)
	}
}

func TestRenewalWithoutRestart(t *testing.T) {
	c := &clock{time.Now()}
	b := ensure(t, t.TempDir(), testConfig(c))
	server, client := b.APIServer.ServerTLS(), b.Admin.ClientTLS(b.CA)
	oldServer, _ := server.GetCertificate(nil)
	oldClient, _ := client.GetClientCertificate(nil)
	c.t = c.t.Add(LeafLife*2/3 + time.Hour)
	newServer, err := server.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	newClient, err := client.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !newServer.Leaf.NotAfter.After(oldServer.Leaf.NotAfter) || !newClient.Leaf.NotAfter.After(oldClient.Leaf.NotAfter) {
		t.Error("not renewed")
	}
	if len(newServer.Certificate) != 2 || !bytes.Equal(newServer.Certificate[1], b.CA.Cert.Raw) {
		t.Error("the renewed certificate does not show the authority")
	}
	onDisk, err := parseCert([]byte(snapshot(t, b.Dir)["admin.crt"]))
	if err != nil || !onDisk.Equal(newClient.Leaf) {
		t.Errorf("the renewed certificate is not on disk: %v", err)
	}
	// What cannot be renewed is used to its end and not a moment longer.
	if err := os.RemoveAll(b.Dir); err != nil {
		t.Fatal(err)
	}
	c.t = c.t.Add(LeafLife*2/3 + time.Hour)
	if again, err := b.Admin.Certificate(); err != nil || again != newClient {
		t.Errorf("got %v %v, want the old certificate", again, err)
	}
	c.t = c.t.Add(LeafLife)
	if _, err := b.Admin.Certificate(); err == nil {
		t.Error("an expired certificate was used")
	}
}

func TestNode(t *testing.T) {
	c := &clock{time.Now()}
	b := ensure(t, t.TempDir(), testConfig(c))
	client, serving, err := b.Node("n1", []string{"alias"}, []net.IP{net.ParseIP("192.0.2.8")})
	if err != nil {
		t.Fatal(err)
	}
	cert := leafCert(t, client)
	if cert.Subject.CommonName != "system:node:n1" || !slices.Equal(cert.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("subject %v", cert.Subject)
	}
	for _, name := range []string{"n1", "alias", "192.0.2.8"} {
		if err := leafCert(t, serving).VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "..", "../x", "a/b", ".hidden", "UPPER", "a\x00b"} {
		if _, _, err := b.Node(bad, nil, nil); err == nil {
			t.Errorf("node name %q accepted", bad)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "kubeconfig")
	for range 2 {
		if err := WriteKubeconfig(path, "https://127.0.0.1:6443", []byte("ca"), []byte("cert"), []byte("key")); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st.Mode(), err)
	}
	data, _ := os.ReadFile(path)
	for _, want := range []string{"server: https://127.0.0.1:6443", "certificate-authority-data: Y2E=", "client-certificate-data: Y2VydA==", "client-key-data: a2V5", "current-context: cox"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in\n%s", want, data)
		}
	}
}

// serveTLS shakes hands with everyone who comes and returns the address.
func serveTLS(t *testing.T, c *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1))
			}()
		}
	}()
	return l.Addr().String()
}

func TestJoin(t *testing.T) {
	c := &clock{time.Now()}
	b := ensure(t, t.TempDir(), testConfig(c))
	other := ensure(t, t.TempDir(), testConfig(c))
	addr := serveTLS(t, b.APIServer.ServerTLS())

	boot, err := NewBootstrapToken()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := ParseJoinToken(JoinToken{b.CA.Hash(), boot}.String() + "\n")
	if err != nil || tok.BootstrapToken != boot || tok.CAHash != b.CA.Hash() {
		t.Fatalf("%v %v", tok, err)
	}
	ca, err := DiscoverCA(context.Background(), addr, tok.CAHash)
	if err != nil || !bytes.Equal(ca, b.CA.PEM()) {
		t.Fatalf("got %s, %v", ca, err)
	}
	if _, err := DiscoverCA(context.Background(), addr, other.CA.Hash()); err == nil {
		t.Error("a foreign cluster was trusted")
	}
	// A man in the middle shows the right authority but cannot have a
	// certificate of it.
	fake := *other.APIServer.current.Load()
	fake.Certificate = [][]byte{fake.Certificate[0], b.CA.Cert.Raw}
	mitm := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{fake}})
	if _, err := DiscoverCA(context.Background(), mitm, tok.CAHash); err == nil {
		t.Error("a man in the middle was trusted")
	}
	for _, bad := range []string{"", "x", boot.String(), "sha256:" + tok.String(), tok.String() + "x", strings.ToUpper(tok.String())} {
		if _, err := ParseJoinToken(bad); err == nil || (bad != "" && len(bad) > 5 && strings.Contains(err.Error(), bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSignCSR(t *testing.T) {
	c := &clock{time.Now()}
	b := ensure(t, t.TempDir(), testConfig(c))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewCSR(key, Spec{CommonName: "system:node:x", Organizations: []string{"system:nodes"}, DNSNames: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	out, err := SignCSR(b.CA, csr, usages, c.t, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(out)
	if err != nil {
		t.Fatal(err)
	}
	if cert.IsCA || cert.Subject.CommonName != "system:node:x" || cert.KeyUsage != x509.KeyUsageDigitalSignature || cert.NotAfter.After(c.t.Add(time.Hour)) {
		t.Errorf("wrong certificate: %+v", cert.Subject)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: b.CA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if long, err := SignCSR(b.CA, csr, usages, c.t, 2*CALife); err != nil {
		t.Error(err)
	} else if cert, _ := parseCert(long); cert.NotAfter.After(b.CA.Cert.NotAfter) {
		t.Error("outlives its authority")
	}
	tampered := bytes.Replace(csr, csr[60:64], []byte("AAAA"), 1)
	for name, f := range map[string]func() error{
		"tampered": func() error { _, err := SignCSR(b.CA, tampered, usages, c.t, time.Hour); return err },
		"not PEM":  func() error { _, err := SignCSR(b.CA, []byte("x"), usages, c.t, time.Hour); return err },
		"unknown usage": func() error {
			_, err := SignCSR(b.CA, csr, []certificatesv1.KeyUsage{"fly"}, c.t, time.Hour)
			return err
		},
		"a certificate": func() error { _, err := SignCSR(b.CA, b.CA.PEM(), usages, c.t, time.Hour); return err },
	} {
		if f() == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func BenchmarkFirstRun(b *testing.B) {
	c := &clock{time.Now()}
	for b.Loop() {
		if _, err := Ensure(filepath.Join(b.TempDir(), "pki"), testConfig(c)); err != nil {
			b.Fatal(err)
		}
	}
}
