package cgroups

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// rmdir removes one group's folder: unlike elsewhere the files in it do not
// stand in the way.
func rmdir(dir string) error {
	if err := syscall.Rmdir(dir); err != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// v1 has a hierarchy per controller.
type v1 struct {
	mounts map[string]string // by controller
}

func (a *v1) name() string { return "v1" }

// points lists the mount points, each once.
func (a *v1) points() []string {
	return slices.Compact(slices.Sorted(maps.Values(a.mounts)))
}

// made are the controllers in which the kubelet makes groups; the runtime
// adds the others when it needs them.
var made = []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "name=systemd"}

func (a *v1) create(group string) error {
	for _, c := range made {
		mount, ok := a.mounts[c]
		if !ok {
			continue
		}
		if err := os.MkdirAll(filepath.Join(mount, group), 0o755); err != nil {
			return err
		}
	}
	return a.inheritCpuset(group)
}

// inheritCpuset gives a group and those above it their parent's CPUs and
// memory nodes: new groups have none and can hold no process.
func (a *v1) inheritCpuset(group string) error {
	mount, ok := a.mounts["cpuset"]
	if !ok || group == "/" || group == "." {
		return nil
	}
	if err := a.inheritCpuset(filepath.Dir(group)); err != nil {
		return err
	}
	dir := filepath.Join(mount, group)
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(have)) > 0 {
			continue
		}
		up, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if err != nil {
			return err
		}
		if err := write(dir, f, string(bytes.TrimSpace(up))); err != nil {
			return err
		}
	}
	return nil
}

func (a *v1) set(group string, r Resources) error {
	put := func(controller, file string, v int64) error {
		mount, ok := a.mounts[controller]
		if !ok || v == 0 {
			return nil
		}
		return writeInt(filepath.Join(mount, group), file, v)
	}
	var errs []error
	errs = append(errs, put("cpu", "cpu.shares", r.CPUShares))
	if r.CPUQuota > 0 {
		errs = append(errs, put("cpu", "cpu.cfs_period_us", r.CPUPeriod))
		errs = append(errs, put("cpu", "cpu.cfs_quota_us", r.CPUQuota))
	}
	errs = append(errs, put("memory", "memory.limit_in_bytes", r.Memory))
	errs = append(errs, put("pids", "pids.max", r.Pids))
	return errors.Join(errs...)
}

func (a *v1) remove(group string) error {
	var errs []error
	for _, mount := range a.points() {
		errs = append(errs, removeTree(filepath.Join(mount, group)))
	}
	return errors.Join(errs...)
}

func (a *v1) children(group string) ([]string, error) {
	seen := map[string]bool{}
	for _, mount := range a.points() {
		names, err := listDirs(filepath.Join(mount, group))
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			seen[n] = true
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// hybrid has v1 controllers and beside them an empty v2 hierarchy, in which
// runtimes make groups only to track processes.
type hybrid struct {
	v1
	unified v2
}

func (a *hybrid) name() string { return "hybrid" }

func (a *hybrid) create(group string) error {
	if err := a.v1.create(group); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(a.unified.mount, group), 0o755)
}

func (a *hybrid) remove(group string) error {
	return errors.Join(a.v1.remove(group), a.unified.remove(group))
}

func (a *hybrid) children(group string) ([]string, error) {
	one, err := a.v1.children(group)
	if err != nil {
		return nil, err
	}
	two, err := a.unified.children(group)
	all := append(one, two...)
	slices.Sort(all)
	return slices.Compact(all), err
}
