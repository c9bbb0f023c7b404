package settings

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/kubelet"
	"github.com/coxswain/cox/kubelet/server"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// files writes a configuration and drop-ins, by name, and loads them.
func files(t *testing.T, main string, dropIns map[string]string) (*Settings, error) {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string) string {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write(filepath.Join(dir, "kubelet.yaml"), main)
	folder := ""
	for name, text := range dropIns {
		folder = filepath.Join(dir, "conf.d")
		write(filepath.Join(folder, name), text)
	}
	return Load(file, folder)
}

func TestDropIns(t *testing.T) {
	s, err := files(t, head+"maxPods: 50\nstaticPodPath: pods\nkubeReserved: {cpu: 100m, memory: 100Mi}\nallowedUnsafeSysctls: [net.*, kernel.msg*]\n", map[string]string{
		"20-last.conf":         head + "maxPods: 70\nallowedUnsafeSysctls: [fs.*]\n",
		"10-first.conf":        head + "maxPods: 60\nkubeReserved: {memory: 200Mi}\nserializeImagePulls: true\n",
		"sub/30.conf":          head + "podPidsLimit: 99\n",
		"README.md":            "no configuration",
		"25-ignored.conf.save": head + "maxPods: 1\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxPods != 70 || s.KubeReserved["cpu"] != "100m" || s.KubeReserved["memory"] != "200Mi" || !*s.SerializeImagePulls || *s.PodPidsLimit != 99 {
		t.Errorf("merged: %d pods, reserved %v, serial %v, pids %d", s.MaxPods, s.KubeReserved, *s.SerializeImagePulls, *s.PodPidsLimit)
	}
	if len(s.AllowedUnsafeSysctls) != 1 || s.AllowedUnsafeSysctls[0] != "fs.*" {
		t.Errorf("a list is replaced as a whole: %v", s.AllowedUnsafeSysctls)
	}
	if !filepath.IsAbs(s.StaticPodPath) || filepath.Base(s.StaticPodPath) != "pods" {
		t.Errorf("paths are relative to the file: %q", s.StaticPodPath)
	}
}

func TestApply(t *testing.T) {
	s, err := files(t, head+`
systemReserved: {memory: 1Gi, cpu: 500m}
kubeReserved: {memory: 512Mi, cpu: 500m}
reservedSystemCPUs: "0"
evictionHard: {memory.available: 5%, pid.available: "100"}
evictionSoft: {memory.available: 10%}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionMinimumReclaim: {memory.available: 50Mi}
evictionMaxPodGracePeriod: 20
shutdownGracePeriod: 30s
shutdownGracePeriodCriticalPods: 10s
containerLogMaxSize: 1Mi
cpuManagerPolicy: static
enforceNodeAllocatable: [pods, system-reserved]
systemReservedCgroup: /system.slice
crashLoopBackOff: {maxContainerRestartPeriod: 5s}
registerWithTaints: [{key: a, effect: NoSchedule}]
imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages
preloadedImagesVerificationAllowlist: [registry.io/*]
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := kubelet.Config{LogDir: "/flag"}
	if err := s.Apply(&c); err != nil {
		t.Fatal(err)
	}
	if q := c.Reserved[corev1.ResourceMemory]; q.String() != "1536Mi" {
		t.Errorf("reserved memory %s", q.String())
	}
	if q := c.Reserved[corev1.ResourceCPU]; q.String() != "1" {
		t.Errorf("reserved CPU %s: the list wins", q.String())
	}
	if q := c.ReservedGroups["/system.slice"][corev1.ResourceMemory]; q.String() != "1Gi" || c.Unbounded {
		t.Errorf("groups %v", c.ReservedGroups)
	}
	want := []kubelet.Threshold{
		{Signal: "memory.available", Limit: kubelet.Amount{Share: 0.05}, Reclaim: kubelet.Amount{Quantity: 50 << 20}},
		{Signal: "memory.available", Limit: kubelet.Amount{Share: 0.10}, Grace: 90 * time.Second, Reclaim: kubelet.Amount{Quantity: 50 << 20}},
		{Signal: "pid.available", Limit: kubelet.Amount{Quantity: 100}},
	}
	if len(c.Eviction.Thresholds) != len(want) {
		t.Fatalf("%+v", c.Eviction.Thresholds)
	}
	for i, w := range want {
		if c.Eviction.Thresholds[i] != w {
			t.Errorf("threshold %d: %+v, want %+v", i, c.Eviction.Thresholds[i], w)
		}
	}
	if c.Eviction.MaxPodGrace != 20*time.Second || c.Containers.LogSize != 1<<20 || c.Containers.CrashDelay != 5*time.Second || c.LogDir != "/flag" || len(c.Taints) != 1 || !c.Exclusive.StaticCPUs {
		t.Errorf("%+v", c)
	}
	if a := c.ImageAccess; a.Policy != "NeverVerifyAllowlistedImages" || len(a.Allowlist) != 1 || a.Allowlist[0] != "registry.io/*" {
		t.Errorf("image access %+v", a)
	}
	steps := []kubelet.ShutdownStep{{Priority: 0, Grace: 20 * time.Second}, {Priority: 2_000_000_000, Grace: 10 * time.Second}}
	if len(c.Shutdown) != 2 || c.Shutdown[0] != steps[0] || c.Shutdown[1] != steps[1] {
		t.Errorf("shutdown %v", c.Shutdown)
	}
}

// TestSwap: pods get swap only if the configuration says so.
func TestSwap(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "memorySwap: {}\n": false, "memorySwap: {swapBehavior: NoSwap}\n": false, "memorySwap: {swapBehavior: LimitedSwap}\n": true,
	} {
		s, err := files(t, head+text, nil)
		if err != nil {
			t.Fatal(err)
		}
		var c kubelet.Config
		if err := s.Apply(&c); err != nil {
			t.Fatal(err)
		}
		if c.Containers.Swap != want {
			t.Errorf("%q: swap %v, want %v", text, c.Containers.Swap, want)
		}
	}
	if _, err := files(t, head+"memorySwap: {swapBehavior: UnlimitedSwap}\n", nil); err == nil {
		t.Error("UnlimitedSwap is taken")
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"maxPods: -1":                                  "maxPods",
		"maxPods: many":                                "maxPods",
		"cpuManagerPolicy: dynamic":                    "cpuManagerPolicy",
		"cpuManagerPolicy: static":                     "needs CPUs that are reserved",
		"imageGCLowThresholdPercent: 90":               "imageGCLowThresholdPercent",
		"evictionHard: {memory.left: 1Mi}":             "unknown eviction signal",
		"evictionHard: {memory.available: x}":          "no quantity",
		"evictionSoft: {memory.available: 1Mi}":        "evictionSoftGracePeriod",
		`kubeReserved: {gpu: "1"}`:                     "cannot be reserved",
		"qosReserved: {memory: 50%}":                   "qosReserved",
		"enforceNodeAllocatable: [kube-reserved]":      "kubeReservedCgroup",
		"tlsMinVersion: VersionTLS10":                  "tlsMinVersion",
		"tlsCipherSuites: [TLS_RSA_WITH_RC4_128_SHA]":  "tlsCipherSuites",
		"shutdownGracePeriodCriticalPods: 10s":         "shutdownGracePeriodCriticalPods",
		"kind: Pod":                                    "kind",
		"imagePullCredentialsVerificationPolicy: Some": "imagePullCredentialsVerificationPolicy",
		"preloadedImagesVerificationAllowlist: [a]":    "needs imagePullCredentialsVerificationPolicy",
		"imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: [\"a:1\"]": "no tag",
	} {
		s, err := files(t, head+text+"\n", nil)
		if err == nil {
			err = s.Apply(&kubelet.Config{})
		}
		if err == nil {
			err = s.ApplyServer(&server.Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestWarned(t *testing.T) {
	s, err := files(t, head+"readOnlyPort: 10255\nfeatureGates: {NodeSwap: true}\nnosuchfield: 1\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(s.Warnings, "\n")
	for _, want := range []string{"readOnlyPort", "featureGates.NodeSwap", `unknown field "nosuchfield"`} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning of %s in %q", want, all)
		}
	}
	if s, err := Load("", ""); err != nil || len(s.Warnings) > 0 || s.EvictionHard["nodefs.available"] != "10%" {
		t.Errorf("defaults: %v %v", err, s)
	}
}
