package etcd

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// TestDial talks mutual TLS to a stock etcd.
func TestDial(t *testing.T) {
	dir := t.TempDir()
	tls, err := transport.SelfCert(zap.NewNop(), filepath.Join(dir, "pki"), []string{"127.0.0.1:0"}, 1, x509.ExtKeyUsageClientAuth)
	if err != nil {
		t.Fatal(err)
	}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	local := func(scheme string) []url.URL { return []url.URL{{Scheme: scheme, Host: "127.0.0.1:0"}} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = local("https"), local("https")
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = local("http"), local("http")
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ClientTLSInfo = tls
	cfg.ClientTLSInfo.ClientCertAuth = true
	cfg.ClientTLSInfo.TrustedCAFile = tls.CertFile
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	<-e.Server.ReadyNotify()
	endpoint := "https://" + e.Clients[0].Addr().String()

	dial := DialConfig{Endpoints: []string{endpoint}, CertFile: tls.CertFile, KeyFile: tls.KeyFile, CAFile: tls.CertFile, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, dial)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put, err := c.Put(t.Context(), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if rev, err := c.Revision(t.Context()); err != nil || rev != put.Header.Revision {
		t.Errorf("revision %d, %v, want %d", rev, err, put.Header.Revision)
	}

	for name, change := range map[string]func(*DialConfig){
		"no endpoints":   func(d *DialConfig) { d.Endpoints = nil },
		"no certificate": func(d *DialConfig) { d.CertFile, d.KeyFile, d.CAFile = "", "", "" },
		"missing file":   func(d *DialConfig) { d.CertFile = filepath.Join(dir, "none") },
		"nobody there":   func(d *DialConfig) { d.Endpoints = []string{"https://127.0.0.1:1"} },
	} {
		d := dial
		change(&d)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if c, err := Dial(ctx, d); err == nil {
			c.Close()
			t.Errorf("%s: dialled", name)
		} else {
			t.Log(name, ":", err)
		}
		cancel()
	}
}
