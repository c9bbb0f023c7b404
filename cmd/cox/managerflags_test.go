package main

import (
	"crypto/tls"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coxswain/cox/controllers/manager"
)

// Flags of upstream's that cannot matter here are taken, and who sets one is
// told; of some, only what is the case here can be had.
func TestCompatibleFlags(t *testing.T) {
	parse := func(args ...string) (*compatible, error) {
		cmd := managerCommand()
		if err := cmd.Flags().Parse(args); err != nil {
			t.Fatal(err)
		}
		c := &compatible{fs: cmd.Flags()}
		return c, c.complete()
	}
	var told strings.Builder
	log := slog.New(slog.NewTextHandler(&told, nil))
	c, err := parse("--resource-quota-sync-period=1m", "--pv-recycler-minimum-timeout-nfs=3", "--disable-attach-detach-reconcile-sync",
		"--cloud-provider=external", "--leader-elect-resource-lock=leases", "--cidr-allocator-type=RangeAllocator", "--enable-leader-migration=false")
	if err != nil {
		t.Error(err)
	}
	c.tell(log)
	for _, want := range []string{"--resource-quota-sync-period has no effect", "--pv-recycler-minimum-timeout-nfs has", "--disable-attach-detach-reconcile-sync has"} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("%q is not said: %s", want, told.String())
		}
	}
	if n := strings.Count(told.String(), "no effect"); n != 3 {
		t.Errorf("%d flags have no effect: %s", n, told.String())
	}
	for _, bad := range []string{"--cloud-provider=aws", "--cidr-allocator-type=CloudAllocator", "--enable-leader-migration", "--enable-hostpath-provisioner", "--requestheader-group-headers=X-Group"} {
		if _, err := parse(bad); err == nil || !strings.Contains(err.Error(), strings.SplitN(bad, "=", 2)[0]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestTLSFlags(t *testing.T) {
	c, err := (&tlsFlags{version: "VersionTLS13", noHTTP2: true}).config()
	if err != nil || c.MinVersion != tls.VersionTLS13 || len(c.NextProtos) != 1 || c.NextProtos[0] != "http/1.1" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = (&tlsFlags{suites: []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}}).config()
	if err != nil || c.MinVersion != tls.VersionTLS12 || len(c.CipherSuites) != 1 || c.CipherSuites[0] != tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []tlsFlags{{version: "VersionTLS10"}, {suites: []string{"TLS_RSA_WITH_RC4_128_SHA"}}} {
		if _, err := bad.config(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestLogging(t *testing.T) {
	for _, c := range []struct {
		logging
		debug, bad bool
	}{
		{logging{"info", "text", 0}, false, false}, {logging{"info", "json", 4}, true, false}, {logging{"debug", "text", 0}, true, false},
		{logging{"loud", "text", 0}, false, true}, {logging{"info", "xml", 0}, false, true},
	} {
		log, err := c.logger()
		if (err != nil) != c.bad || err == nil && log.Enabled(t.Context(), slog.LevelDebug) != c.debug {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestNodeMask(t *testing.T) {
	for _, c := range []struct {
		args []string
		size int
		bad  bool
	}{
		{[]string{"--node-cidr-mask-size=26"}, 26, false}, {nil, 24, false},
		{[]string{"--node-cidr-mask-size=26", "--node-cidr-mask-size-ipv4=26"}, 0, true},
		{[]string{"--node-cidr-mask-size=26", "--cluster-cidr=10.0.0.0/8,fd00::/48"}, 0, true},
	} {
		r := &managerRole{}
		fs := r.flags()
		if err := fs.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		err := r.ownMask()
		var m manager.Config
		r.loops.put(&m)
		if (err != nil) != c.bad || err == nil && m.NodeMaskIPv4 != c.size {
			t.Errorf("%v: %d, %v", c.args, m.NodeMaskIPv4, err)
		}
	}
}

func TestWithin(t *testing.T) {
	done := make(chan struct{})
	if within(time.Millisecond, done) {
		t.Error("it did not come")
	}
	close(done)
	if !within(time.Hour, done) {
		t.Error("it came")
	}
}
