package cgroups

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/internal/cgroup"
	"github.com/coxswain/cox/internal/mountinfo"
)

func TestAmong(t *testing.T) {
	const info = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
50 31 0:38 / /other/unified rw - cgroup2 cgroup2 rw
`
	mounts, err := mountinfo.Parse(strings.NewReader(info))
	if err != nil {
		t.Fatal(err)
	}
	c, u := among(mounts, "/sys/fs/cgroup")
	if want := map[string]string{"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "name=systemd": "/sys/fs/cgroup/systemd"}; fmt.Sprint(c) != fmt.Sprint(want) || u != "/sys/fs/cgroup/unified" {
		t.Errorf("got %v, %s", c, u)
	}
}

// fakeV2 is a folder that looks like a v2 hierarchy, as far as files go.
func fakeV2(t *testing.T, groups ...string) (*Manager, string) {
	t.Helper()
	dir := t.TempDir()
	for _, g := range append(groups, "") {
		d := filepath.Join(dir, g)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup.controllers": "cpuset cpu io memory pids rdma", "cgroup.subtree_control": ""} {
			if err := os.WriteFile(filepath.Join(d, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	info := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(info, []byte("1 1 0:1 / "+dir+" rw - cgroup2 cgroup2 rw\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := DetectIn(dir, info, "/cox")
	if err != nil {
		t.Fatal(err)
	}
	return m, dir
}

func TestV2(t *testing.T) {
	m, dir := fakeV2(t, "cox", "cox/kubepods", "cox/kubepods/burstable", "cox/kubepods/besteffort", "cox/kubepods/burstable/podx")
	if m.Mode() != "v2" {
		t.Fatal(m.Mode())
	}
	if err := m.EnsureTree(Resources{CPUShares: 4096, Memory: 1 << 30, Pids: 1000}); err != nil {
		t.Fatal(err)
	}
	if err := m.EnsurePod(Burstable, "podx", Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cox/kubepods/cpu.weight": "303", "cox/kubepods/memory.max": "1073741824", "cox/kubepods/pids.max": "1000",
		"cox/kubepods/besteffort/cpu.weight": "1", "cox/kubepods/burstable/podx/cpu.weight": "59",
		"cox/kubepods/burstable/podx/cpu.max": "50000 100000", "cox/kubepods/burstable/podx/memory.max": "1048576",
		"cgroup.subtree_control": "+cpu +cpuset +memory +pids +io", "cox/kubepods/burstable/podx/cgroup.subtree_control": "+cpu +cpuset +memory +pids +io",
	} {
		got, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q (%v), want %q", file, got, err, want)
		}
	}
	// The kernel makes the file of each size that it has.
	huge := filepath.Join(dir, "cox/kubepods/burstable/podx/hugetlb.2MB.max")
	if err := os.WriteFile(huge, []byte("max"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.LimitHugePages(Burstable, "podx", map[string]int64{"2MB": 0, "1GB": 5}); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(huge); err != nil || string(got) != "0" {
		t.Errorf("huge pages: %q, %v", got, err)
	}
	pods, err := m.Pods()
	if err != nil || len(pods[Burstable]) != 1 || pods[Burstable][0] != "podx" {
		t.Errorf("pods %v, %v", pods, err)
	}
}

// What a hybrid host's root passes on is noted, for it is to be given back;
// what was found enabled, or is on a v2 host, is not.
func TestLent(t *testing.T) {
	for _, tc := range []struct {
		lent      bool
		on, noted string
	}{{true, "", "hugetlb"}, {true, "hugetlb", ""}, {false, "", ""}} {
		root := t.TempDir()
		if err := unix.Setxattr(root, "trusted.cox.test", []byte("x"), 0); err != nil {
			t.Skip("trusted attributes need root and a file system that has them:", err)
		}
		for dir, on := range map[string]string{root: tc.on, filepath.Join(root, "cox"): ""} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{"cgroup.controllers": "hugetlb", "cgroup.subtree_control": on} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := (&v2{mount: root, lent: tc.lent}).create("/cox"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := unix.Getxattr(root, "trusted.cox.enabled", b)
		if got := string(b[:max(n, 0)]); got != tc.noted || err != nil && err != unix.ENODATA {
			t.Errorf("%+v: noted %q, %v", tc, got, err)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{0: 1, 2: 1, 102: 17, 1024: 100, 2048: 174, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d: got %d, want %d", shares, got, want)
		}
	}
}

func TestNoCgroups(t *testing.T) {
	info := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(info, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := DetectIn("/nowhere", info, "/"); err == nil {
		t.Error("want an error")
	}
}

// TestReal makes and removes a tree in this host's own cgroups, whatever they
// are.
func TestReal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	m, err := Detect(fmt.Sprintf("/coxtest-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err) // root can make cgroups: what runs containers can
	}
	t.Cleanup(func() {
		if err := m.a.remove(m.root); err != nil {
			t.Error(err)
		}
	})
	if err := m.EnsureTree(Resources{CPUShares: 1024, Memory: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if err := m.EnsurePod(Guaranteed, "poda", Resources{CPUShares: 100, CPUQuota: 10000, CPUPeriod: 100000, Memory: 16 << 20, Pids: 10}); err != nil {
		t.Fatal(err)
	}
	if err := m.SetClass(Burstable, 500); err != nil {
		t.Fatal(err)
	}
	var at, file, want string
	switch a := m.a.(type) {
	case *v2:
		at, file, want = a.mount, "memory.max", "16777216"
	case *hybrid:
		at, file, want = a.mounts["memory"], "memory.limit_in_bytes", "16777216"
	case *v1:
		at, file, want = a.mounts["memory"], "memory.limit_in_bytes", "16777216"
	}
	b, err := os.ReadFile(filepath.Join(at, m.Group(Guaranteed, "poda"), file))
	if err != nil || strings.TrimSpace(string(b)) != want {
		t.Errorf("%s (%s): %q, %v", file, m.Mode(), b, err)
	}
	pods, err := m.Pods()
	if err != nil || fmt.Sprint(pods) != "map[0:[poda]]" {
		t.Errorf("pods %v, %v", pods, err)
	}
	// A process that the runtime has lost does not keep the group.
	lost := exec.Command("sleep", "1000")
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Enter(m.Group(Guaranteed, "poda"), lost.Process.Pid); err != nil {
		t.Error(err)
	}
	if err := m.RemovePod(Guaranteed, "poda"); err == nil {
		t.Error("a group with a process in it was removed")
	}
	if err := lost.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process in the group ended with %v", err)
	}
	for range 2 {
		if err := m.RemovePod(Guaranteed, "poda"); err != nil {
			t.Error(err)
		}
	}
	if err := m.RemoveTree(); err != nil {
		t.Error(err)
	}
}

// TestUnified makes, limits and removes a pod's group in the v2 hierarchy of a
// hybrid host: a real one, though with few controllers.
func TestUnified(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	m, err := Detect(fmt.Sprintf("/coxtest2-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	var side *v2
	switch a := m.a.(type) {
	case *hybrid:
		side = &a.unified
	case *v2:
		side = a
	default:
		t.Skip("this host has no v2 hierarchy")
	}
	m.a = side
	before, err := os.ReadFile(filepath.Join(side.mount, "cgroup.subtree_control"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := side.remove(m.root); err != nil {
			t.Error(err)
		}
		if side.lent {
			if err := cgroup.GiveBack(); err != nil {
				t.Error(err)
			}
		} else if !set(string(before))["hugetlb"] {
			_ = write(side.mount, "cgroup.subtree_control", "-hugetlb") // others may use it by now
		}
	})
	if err := m.EnsurePod(Burstable, "podx", Resources{}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(side.mount, m.Group(Burstable, "podx"))
	if err := m.LimitHugePages(Burstable, "podx", map[string]int64{"2MB": 4 << 20, "77MB": 1}); err != nil {
		t.Error(err)
	}
	// Whatever the host has is on for the pod's containers.
	for file, has := range map[string]bool{"hugetlb.2MB.max": true, "hugetlb.77MB.max": false} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if controllers, _ := os.ReadFile(filepath.Join(side.mount, "cgroup.controllers")); !set(string(controllers))["hugetlb"] {
			has = false
		}
		if has != (err == nil) || has && strings.TrimSpace(string(b)) != "4194304" {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	proc := exec.Command("sleep", "1000")
	if err := proc.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proc.Process.Kill(); _ = proc.Wait() }()
	inner := filepath.Join(dir, "container")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeInt(inner, "cgroup.procs", int64(proc.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if pods, err := m.Pods(); err != nil || fmt.Sprint(pods) != "map[1:[podx]]" {
		t.Errorf("pods %v, %v", pods, err)
	}
	if err := side.remove(m.Group(Burstable, "podx")); err == nil {
		t.Error("a group with a process in it was removed")
	}
	_ = proc.Process.Kill()
	_ = proc.Wait()
	if err := m.RemovePod(Burstable, "podx"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the group is still there: %v", err)
	}
}
