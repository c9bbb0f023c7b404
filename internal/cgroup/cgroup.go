// Package cgroup handles a cgroup path in every hierarchy of the host at once:
// cgroup v1, hybrid and v2 look the same from outside.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/internal/mountinfo"
)

// Hierarchy is one mounted cgroup file system.
type Hierarchy struct {
	// Mount is where it is mounted.
	Mount string
	// V2 tells the unified hierarchy.
	V2 bool
	// Controllers are those of a v1 hierarchy ("cpu", "name=systemd").
	Controllers []string
}

// Hierarchies lists what is mounted, each once.
func Hierarchies() ([]Hierarchy, error) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	return among(mounts), nil
}

// v1Flags are mount options of a v1 hierarchy that are no controllers.
var v1Flags = map[string]bool{"rw": true, "ro": true, "xattr": true, "clone_children": true, "noprefix": true, "cpuset_v2_mode": true, "nsdelegate": true}

func among(mounts []mountinfo.Mount) []Hierarchy {
	var out []Hierarchy
	seen := map[string]bool{}
	for _, m := range mounts {
		// The device number tells a hierarchy mounted twice.
		if m.Type != "cgroup" && m.Type != "cgroup2" || seen[m.Device] {
			continue
		}
		seen[m.Device] = true
		h := Hierarchy{Mount: m.Point, V2: m.Type == "cgroup2"}
		if !h.V2 {
			for _, o := range m.Options {
				if !v1Flags[o] && !strings.HasPrefix(o, "release_agent=") {
					h.Controllers = append(h.Controllers, o)
				}
			}
		}
		out = append(out, h)
	}
	return out
}

// Has tells whether the v1 hierarchy holds a controller.
func (h Hierarchy) Has(controller string) bool {
	for _, c := range h.Controllers {
		if c == controller {
			return true
		}
	}
	return false
}

// Enter makes the cgroup path in every hierarchy and moves the process pid
// there. cpuset is left alone: a new cpuset has no CPUs until given some, and
// inheriting the parent's is what is wanted.
func Enter(path string, pid int) error {
	hs, err := Hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hs {
		if h.Has("cpuset") {
			continue
		}
		dir := filepath.Join(h.Mount, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Procs returns the processes in the cgroup and all beneath it, in any
// hierarchy. Those that exist no longer are not an error.
func Procs(path string) ([]int, error) {
	seen := map[int]bool{}
	err := walk(path, func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		// A threaded or just removed cgroup answers with an error.
		if err != nil {
			return nil
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				seen[pid] = true
			}
		}
		return nil
	})
	out := make([]int, 0, len(seen))
	for pid := range seen {
		out = append(out, pid)
	}
	return out, err
}

// Remove removes the cgroup and all beneath it from every hierarchy. The
// processes in it must be gone; a cgroup that is still busy is an error.
func Remove(path string) error {
	var dirs []string
	if err := walk(path, func(dir string) error {
		dirs = append(dirs, dir)
		return nil
	}); err != nil {
		return err
	}
	var errs []error
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dirs[i], err))
		}
	}
	return errors.Join(errs...)
}

// walk visits the cgroup's folders, parents first, in every hierarchy.
func walk(path string, visit func(dir string) error) error {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return errors.New("the root cgroup is not ours")
	}
	hs, err := Hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		err := filepath.WalkDir(filepath.Join(h.Mount, path), func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if d.IsDir() {
				return visit(p)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
