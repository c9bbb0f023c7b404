package kubelet_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/cgroup"
)

// noLeaks waits until nothing is left of any pod, wherever pods leave traces:
// runtime (which may be coming back), mounts, addresses, links, cgroups,
// processes, folders.
func (w *world) noLeaks() {
	w.t.Helper()
	var left []string
	for deadline := time.Now().Add(w.patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left = w.traces(); len(left) == 0 {
			return
		}
	}
	w.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// traces lists what there is of pods.
func (w *world) traces() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cri, _ := w.rt.CRI()
	sandboxes, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}, grpc.WaitForReady(true))
	if err != nil {
		add("sandboxes: %v", err)
	}
	for _, s := range sandboxes.GetItems() {
		add("sandbox of %s: %s", s.GetMetadata().GetName(), s.State)
	}
	containers, err := cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{}, grpc.WaitForReady(true))
	if err != nil {
		add("containers: %v", err)
	}
	for _, c := range containers.GetContainers() {
		add("container %s: %s", c.GetMetadata().GetName(), c.State)
	}
	for _, dir := range []string{w.dir, w.rtCfg.State, w.rtCfg.Root} {
		for _, m := range mountsIn(dir) {
			// By the first, volumes reach containers; the second is TestFullDisk's.
			if m != filepath.Join(w.dir, "kubelet") && m != filepath.Join(w.dir, "kubelet", "pods") {
				add("mount %s", m)
			}
		}
	}
	entries, _ := os.ReadDir(filepath.Join(w.dir, "cni"))
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			add("address %s", e.Name())
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		add("routes: %v", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if to, ok := netip.AddrFromSlice(r.Dst.IP); ok && podRange().Contains(to.Unmap()) && r.Dst.String() != podRange().String() {
			add("route %s", r.Dst)
		}
	}
	pods, _ := os.ReadDir(filepath.Join(w.dir, "kubelet", "pods"))
	for _, p := range pods {
		add("folder of pod %s", p.Name())
	}
	return append(out, w.groups()...)
}

// groups lists pods' cgroups, and processes beside containerd.
func (w *world) groups() []string {
	var out []string
	hs, _ := cgroup.Hierarchies()
	for _, h := range hs {
		_ = filepath.WalkDir(filepath.Join(h.Mount, w.rtCfg.CgroupRoot), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "pod") {
				out = append(out, "cgroup "+path)
				return filepath.SkipDir
			}
			return nil
		})
	}
	pids, _ := cgroup.Procs(w.rtCfg.CgroupRoot)
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && len(line) > 0 && pid != w.containerd() {
			out = append(out, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
		}
	}
	return out
}

func mountsIn(dir string) []string {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

// containerd is the process number of the world's containerd, 0 for none.
func (w *world) containerd() int {
	return w.processes(func(args []string) bool {
		return filepath.Base(args[0]) == "cox-containerd" && slices.Contains(args, filepath.Join(w.rtCfg.State, "config.toml"))
	}).first()
}

// shims are those of the world's pods.
func (w *world) shims() pids {
	return w.processes(func(args []string) bool {
		return filepath.Base(args[0]) == "cox-shim" &&
			slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, w.rtCfg.State+"/") })
	})
}

// process is one in a container of the world's, by its last argument.
func (w *world) process(last string) int {
	pids, _ := cgroup.Procs(w.rtCfg.CgroupRoot)
	return w.processes(func(args []string) bool { return args[len(args)-1] == last }).among(pids).first()
}

type pids []int

func (p pids) among(others []int) pids {
	return slices.DeleteFunc(p, func(pid int) bool { return !slices.Contains(others, pid) })
}

func (p pids) first() int {
	if len(p) == 0 {
		return 0
	}
	return p[0]
}

func (w *world) processes(is func(args []string) bool) pids {
	entries, _ := os.ReadDir("/proc")
	var out pids
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		raw, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00"); len(raw) > 0 && is(args) {
			out = append(out, pid)
		}
	}
	return out
}
