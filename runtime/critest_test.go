package runtime_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coxswain/cox/cni"
	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/runtimetest"
)

// TestCritest runs the CRI validation suite of kubernetes-sigs/cri-tools on
// containerd as cox configures it. COX_CRITEST names the suite's program; its
// images come from the registries' mirrors that COX_CRITEST_REGISTRIES, a
// folder of hosts.toml files, names. COX_CRITEST_FLAGS are further flags.
func TestCritest(t *testing.T) {
	suite := os.Getenv("COX_CRITEST")
	if suite == "" {
		t.Skip("COX_CRITEST does not name the suite's program")
	}
	cfg := runtimetest.Config(t)
	cfg.RegistryDir = os.Getenv("COX_CRITEST_REGISTRIES")
	cfg.CNIConfDir = filepath.Join(t.TempDir(), "net.d")
	conf := cni.Conf{
		Name: strings.TrimPrefix(cfg.CgroupRoot, "/"), StateDir: filepath.Join(t.TempDir(), "cni"),
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.78.0/24")},
	}
	t.Cleanup(func() {
		if err := cni.Purge(conf); err != nil {
			t.Error(err)
		}
	})
	if err := cni.Setup(conf); err != nil {
		t.Fatal(err)
	}
	if err := cni.WriteConfig(cfg.CNIConfDir, conf); err != nil {
		t.Fatal(err)
	}
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	args := append([]string{"--runtime-endpoint=" + r.Endpoint(), "--ginkgo.no-color"}, strings.Fields(os.Getenv("COX_CRITEST_FLAGS"))...)
	cmd := exec.CommandContext(t.Context(), suite, args...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Run(); err != nil {
		t.Errorf("critest: %v", err)
	}
}
