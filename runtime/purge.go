package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/internal/cgroup"
	"github.com/coxswain/cox/internal/mountinfo"
)

// StopPods stops and removes every pod of the runtime, in good order. It goes
// on after an error and returns all of them.
func (r *Runtime) StopPods(ctx context.Context) error {
	cri, _ := r.CRI()
	list, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, p := range list.GetItems() {
		if _, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			errs = append(errs, fmt.Errorf("stop pod %s: %w", p.GetMetadata().GetName(), err))
		}
		if _, err := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			errs = append(errs, fmt.Errorf("remove pod %s: %w", p.GetMetadata().GetName(), err))
		}
	}
	return errors.Join(errs...)
}

// Terminate closes the connection and ends containerd; containers go on with
// their shims and are found again by the next Start.
func (r *Runtime) Terminate() error {
	err := r.Close()
	if r.cancel == nil {
		return err
	}
	p, ferr := find(r.cfg.socket())
	if p != nil {
		p.end(10 * time.Second)
		p.pidfd.Close()
	}
	return errors.Join(err, ferr)
}

// Purge removes every trace of the runtime that cfg describes, running or
// not: processes, mounts, cgroups, files. Network links and nftables tables
// are the CNI plugin's to remove. It goes on after an error and returns all.
func Purge(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	errs := []error{killAll(ctx, cfg)}
	roots := []string{cfg.State, cfg.Root}
	errs = append(errs, mountinfo.UnmountBelow(roots...))
	errs = append(errs, cgroup.Remove(cfg.CgroupRoot), cgroup.GiveBack())
	for _, dir := range append(roots, cfg.shimSockets(), cfg.AssetsDir) {
		// Never through a mount that is still there.
		if left, err := mountinfo.Below(dir); err != nil || len(left) > 0 {
			errs = append(errs, fmt.Errorf("%s is kept: something is still mounted in it", dir), err)
			continue
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	_ = os.Remove(filepath.Dir(cfg.shimSockets())) // if it was the last
	return errors.Join(errs...)
}

// killAll kills containerd, then the shims with everything that descends from
// them, and whatever else is in the node's cgroups.
func killAll(ctx context.Context, cfg Config) error {
	if p, err := find(cfg.socket()); err == nil && p != nil {
		p.end(2 * time.Second)
		p.pidfd.Close()
	}
	for {
		pids, err := ours(cfg)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			p, err := watchPid(pid)
			if err != nil {
				continue // gone
			}
			_ = unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
			p.wait(ctx)
			p.pidfd.Close()
		}
		// What forked meanwhile is found by another look.
		if ctx.Err() != nil {
			return fmt.Errorf("processes %v do not end: %w", pids, ctx.Err())
		}
	}
}

// ours lists the processes that run a helper of cfg's, their descendants and
// what is in cfg's cgroups. Zombies do not count.
func ours(cfg Config) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	mine := map[int]bool{}
	state := cfg.State + "/"
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		ppid, zombie := parent(pid)
		if zombie {
			continue
		}
		children[ppid] = append(children[ppid], pid)
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if strings.HasPrefix(exe, cfg.AssetsDir+"/") {
			// AssetsDir may be shared with another node's runtime.
			cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
			mine[pid] = strings.Contains(string(cmdline), state)
		}
	}
	in, err := cgroup.Procs(cfg.CgroupRoot)
	if err != nil {
		return nil, err
	}
	queue := make([]int, 0, len(in))
	for _, pid := range in {
		if _, zombie := parent(pid); !zombie {
			queue = append(queue, pid)
		}
	}
	for pid, yes := range mine {
		if yes {
			queue = append(queue, pid)
		}
	}
	seen := map[int]bool{os.Getpid(): true}
	var out []int
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if !seen[pid] {
			seen[pid] = true
			out = append(out, pid)
			queue = append(queue, children[pid]...)
		}
	}
	return out, nil
}

// parent reads the parent of a process and whether the process is dead.
func parent(pid int) (ppid int, dead bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, true
	}
	// The name in brackets may hold anything, also brackets.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return 0, true
	}
	ppid, _ = strconv.Atoi(f[1])
	return ppid, f[0] == "Z" || f[0] == "X"
}
