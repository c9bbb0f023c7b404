// Package cgroups keeps the kubelet's tree of control groups, below one root:
// /kubepods for all pods, with /kubepods/burstable and /kubepods/besteffort
// for the lower classes, and a group per pod. Resources go in; what the
// kernel is told depends on how this host has its cgroups: v1, hybrid or v2.
package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/internal/cgroup"
	"github.com/coxswain/cox/internal/mountinfo"
)

// Class is a quality-of-service class.
type Class int

// The classes.
const (
	Guaranteed Class = iota
	Burstable
	BestEffort
)

// Resources limits a group. Zero values leave the kernel's defaults.
type Resources struct {
	CPUShares int64 // relative, 2 to 262144, in the scale of v1
	CPUQuota  int64 // microseconds per period, 0 for none
	CPUPeriod int64 // microseconds
	Memory    int64 // bytes
	Pids      int64
}

// adapter is one way in which a host has its cgroups. A group is a path below
// the hierarchy's root, such as "/kubepods/burstable".
type adapter interface {
	// create makes a group in all hierarchies; it may exist.
	create(group string) error
	// set applies resources to a group that exists.
	set(group string, r Resources) error
	// limitHugePages bounds a group that exists, in bytes by page size.
	limitHugePages(group string, limits map[string]int64) error
	// remove deletes a group with everything below it, in all hierarchies.
	// Processes must have left it; groups that do not exist are no error.
	remove(group string) error
	// children lists the groups directly below one.
	children(group string) ([]string, error)
	// usage reads what a group has used; one that does not exist is an error.
	usage(group string, u *Usage) error
	// dirs are the folders of which one shows a group's processes.
	dirs(group string) []string
	name() string
}

// Manager is the tree. It is safe for concurrent use on different pods.
type Manager struct {
	a    adapter
	root string // group above kubepods, "/" or such as "/cox"
}

// Detect finds out how the host has its cgroups (cgroups(7)) and returns a
// manager for the tree below root, a group such as "/" or "/cox/node1".
func Detect(root string) (*Manager, error) {
	return DetectIn("/sys/fs/cgroup", "/proc/self/mountinfo", root)
}

// DetectIn is Detect with other places for the mount point and the list of
// mounts.
func DetectIn(mount, list, root string) (*Manager, error) {
	mounts, err := mountinfo.ReadFile(list)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup mounts: %w", err)
	}
	controllers, unified := among(mounts, mount)
	m := &Manager{root: path.Join("/", root)}
	switch {
	case len(controllers) == 0 && unified != "":
		m.a = &v2{mount: unified}
	case len(controllers) > 0 && unified != "":
		m.a = &hybrid{v1: v1{controllers}, unified: v2{mount: unified, lent: true}}
	case len(controllers) > 0:
		m.a = &v1{controllers}
	default:
		return nil, fmt.Errorf("no cgroup file system is mounted below %s", mount)
	}
	return m, nil
}

// among returns the mount point of each v1 controller ("name=systemd"
// included), and that of v2.
func among(mounts []mountinfo.Mount, below string) (controllers map[string]string, unified string) {
	controllers = map[string]string{}
	for _, m := range mounts {
		if m.Point != below && !strings.HasPrefix(m.Point, below+"/") {
			continue
		}
		switch m.Type {
		case "cgroup2":
			unified = m.Point
		case "cgroup":
			for _, o := range m.Options {
				switch o {
				case "rw", "ro", "xattr", "clone_children", "noprefix":
				default:
					if !strings.HasPrefix(o, "release_agent=") {
						controllers[o] = m.Point
					}
				}
			}
		}
	}
	return controllers, unified
}

// Mode names what was detected: "v1", "hybrid" or "v2".
func (m *Manager) Mode() string { return m.a.name() }

// Group returns the path of a class, or of a pod in it when pod is not "".
func (m *Manager) Group(c Class, pod string) string {
	g := path.Join(m.root, "kubepods")
	switch c {
	case Burstable:
		g = path.Join(g, "burstable")
	case BestEffort:
		g = path.Join(g, "besteffort")
	}
	return path.Join(g, pod)
}

// EnsureTree makes the classes. all bounds the pods together.
func (m *Manager) EnsureTree(all Resources) error {
	for _, g := range []struct {
		class Class
		r     Resources
	}{{Guaranteed, all}, {Burstable, Resources{CPUShares: 2}}, {BestEffort, Resources{CPUShares: 2}}} {
		if err := m.ensure(m.Group(g.class, ""), g.r); err != nil {
			return err
		}
	}
	return nil
}

// SetClass gives a class its share of the CPU.
func (m *Manager) SetClass(c Class, shares int64) error {
	return m.a.set(m.Group(c, ""), Resources{CPUShares: shares})
}

// Bound limits a group that others made; that it does not exist is an error.
func (m *Manager) Bound(group string, r Resources) error {
	if err := m.a.set(path.Join("/", group), r); err != nil {
		return fmt.Errorf("set the limits of cgroup %s: %w", group, err)
	}
	return nil
}

// EnsurePod makes a pod's group.
func (m *Manager) EnsurePod(c Class, pod string, r Resources) error {
	return m.ensure(m.Group(c, pod), r)
}

func (m *Manager) ensure(group string, r Resources) error {
	if err := m.a.create(group); err != nil {
		return fmt.Errorf("create cgroup %s: %w", group, err)
	}
	if err := m.a.set(group, r); err != nil {
		return fmt.Errorf("set the limits of cgroup %s: %w", group, err)
	}
	return nil
}

// RemovePod deletes a pod's group. Processes that are still in it are killed:
// the runtime says that there are none, so nobody else will, and the caller's
// next try finds them gone.
func (m *Manager) RemovePod(c Class, pod string) error {
	group := m.Group(c, pod)
	err := m.a.remove(group)
	if errors.Is(err, unix.EBUSY) {
		pids, perr := cgroup.Procs(group)
		err = errors.Join(err, perr)
		for _, pid := range pids {
			if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && kerr != unix.ESRCH {
				err = errors.Join(err, fmt.Errorf("kill left-over process %d: %w", pid, kerr))
			}
		}
	}
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", group, err)
	}
	return nil
}

// RemoveTree deletes everything below and including kubepods.
func (m *Manager) RemoveTree() error { return m.a.remove(m.Group(Guaranteed, "")) }

// Pods lists the pod groups there are, by class.
func (m *Manager) Pods() (map[Class][]string, error) {
	out := map[Class][]string{}
	for _, c := range []Class{Guaranteed, Burstable, BestEffort} {
		names, err := m.a.children(m.Group(c, ""))
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if strings.HasPrefix(n, "pod") {
				out[c] = append(out[c], n)
			}
		}
	}
	return out, nil
}

func write(dir, name, value string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644)
}

func writeInt(dir, name string, v int64) error { return write(dir, name, strconv.FormatInt(v, 10)) }

// removeTree deletes a folder of a cgroup file system, depth first. Groups
// are empty only a moment after their last process was reaped, so a busy one
// is tried again for a little while.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for pause := time.Millisecond; ; pause *= 2 {
		err := rmdir(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if pause > 500*time.Millisecond {
			return err
		}
		time.Sleep(pause)
	}
}

func listDirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
