package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// loaded parses args as `cox server` would.
func loaded(t *testing.T, file string, args ...string) (*config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &config{}
	fs := pflag.NewFlagSet("cox", pflag.ContinueOnError)
	c.flags(fs)
	if err := fs.Parse(append(args, "--config="+path)); err != nil {
		t.Fatal(err)
	}
	return c, c.load(fs)
}

func TestFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	t.Setenv("COX_HTTPS_LISTEN_PORT", "7001")
	t.Setenv("COX_NODE_NAME", "from-env")
	c, err := loaded(t, "https-listen-port: 7000\nnode-name: from-file\nmax-pods: 50\ntls-san: [a, b]\n", "--node-name=from-flag")
	if err != nil {
		t.Fatal(err)
	}
	if c.Port != 7001 || c.NodeName != "from-flag" || c.MaxPods != 50 || strings.Join(c.TLSSANs, "+") != "a+b" {
		t.Errorf("port %d, node %s, max pods %d, names %v", c.Port, c.NodeName, c.MaxPods, c.TLSSANs)
	}
}

func TestDerivedSettings(t *testing.T) {
	c, err := loaded(t, "", "--service-cidr=10.99.0.0/24", "--data-dir=/x")
	if err != nil {
		t.Fatal(err)
	}
	if c.ClusterDNS != "10.99.0.10" || c.serviceIP().String() != "10.99.0.1" || c.StaticPodPath != "/x/manifests" {
		t.Errorf("DNS %s, API server %s, static pods %s", c.ClusterDNS, c.serviceIP(), c.StaticPodPath)
	}
}

func TestRefusedSettings(t *testing.T) {
	for _, c := range []struct{ file, arg, want string }{
		{"no-such-setting: 1\n", "", `unknown setting "no-such-setting"`},
		{"https-listen-port: x\n", "", "https-listen-port"},
		{"a: [\n", "", "not a valid configuration"},
		{"", "--name=Upper", "--name"},
		{"", "--name=much-too-long-name", "--name"},
		{"", "--cluster-cidr=10.0.0.0", "--cluster-cidr"},
		{"", "--service-cidr=10.42.0.0/16", "overlap"},
		{"", "--service-cidr=10.99.0.0/30", "too small"},
		{"", "--service-node-port-range=9-1", "--service-node-port-range"},
		{"", "--node-ip=host", "--node-ip"},
		{"", "--cluster-dns=host", "--cluster-dns"},
	} {
		var args []string
		if c.arg != "" {
			args = append(args, c.arg)
		}
		if _, err := loaded(t, c.file, args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %s: %v, want an error with %q", c.file, c.arg, err, c.want)
		}
	}
}

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	c := &config{DataDir: dir, Name: "a", ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16"}
	// One that was killed while it wrote the marker left that.
	left := filepath.Join(dir, "."+marker+".123")
	if err := os.WriteFile(left, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || !onlyOurs(entries) {
		t.Errorf("it cannot be purged: %v", err)
	}
	for range 2 {
		if err := c.claim(); err != nil {
			t.Fatal(err)
		}
	}
	if exists(left) {
		t.Error("what a killed start left behind is still there")
	}
	other := *c
	other.Name = "b"
	if err := other.claim(); err == nil || !strings.Contains(err.Error(), `belongs to cluster "a"`) {
		t.Errorf("another cluster's data: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, marker), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.claim(); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged marker: %v", err)
	}
	foreign := &config{DataDir: t.TempDir(), Name: "a"}
	if err := os.WriteFile(filepath.Join(foreign.DataDir, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := foreign.claim(); err == nil || !strings.Contains(err.Error(), "photo.jpg") {
		t.Errorf("a foreign folder: %v", err)
	}
}

func TestOnlyOneServerPerDataDirectory(t *testing.T) {
	c := &config{DataDir: t.TempDir(), Name: "a"}
	first, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.lock(); err == nil || !strings.Contains(err.Error(), "in use by another cox") {
		t.Fatalf("a second lock: %v", err)
	}
	first.Close()
	second, err := c.lock()
	if err != nil {
		t.Fatalf("after the first let go: %v", err)
	}
	second.Close()
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := portFree("127.0.0.1", l.Addr().(*net.TCPAddr).Port); err == nil {
		t.Error("a port in use counts as free")
	}
}

func TestHelpOfClusterCommandsIsShort(t *testing.T) {
	for _, args := range [][]string{{"down"}, {"status"}, {"image", "import"}, {"node", "drain"}, {"token", "create"}} {
		cmd, _, err := rootCommand().Find(args)
		if err != nil {
			t.Fatal(err)
		}
		shown := 0
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				shown++
			}
		})
		if cmd.Flags().Lookup("cluster-cidr") == nil || shown < 3 || shown > 10 {
			t.Errorf("%v: %d flags are shown, want the few that matter; all settings are to be taken", args, shown)
		}
	}
}

// What the kubelet is told by file holds on every node of the machine.
func TestPassedOn(t *testing.T) {
	if got := (&config{}).passedOn(); len(got) > 0 {
		t.Errorf("nothing is passed on as %q", got)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c := &config{}
	c.KubeletConfig, c.KubeletConfigDir, c.RegistryDir = "kubelet.yaml", "/etc/kubelet.d", "/etc/certs.d"
	want := []string{"--registry-dir=/etc/certs.d", "--kubelet-config=" + filepath.Join(wd, "kubelet.yaml"), "--kubelet-config-dir=/etc/kubelet.d"}
	if got := c.passedOn(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// The proxy's ports are the same in every network namespace, where they
	// were chosen.
	c = &config{given: map[string]bool{"healthz-bind-address": true}}
	if got, want := c.passedOn(), []string{"--healthz-bind-address="}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// Two kubelets do not share a folder; below /var/lib each node has its own.
	for dir, want := range map[string][]string{
		"/srv/kubelet": nil, "/var/lib/../../srv": nil, "/var/lib/kubelet": {"--kubelet-dir=/var/lib/kubelet"},
	} {
		c := &config{}
		c.KubeletDir = dir
		if got := c.passedOn(); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}
