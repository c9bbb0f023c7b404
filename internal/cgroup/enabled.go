package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mark is the attribute of a unified hierarchy's root that holds, until the
// machine goes down, which controllers cox has enabled there. Clusters on one
// machine share it: the last to use a controller gives it back.
const mark = "trusted.cox.enabled"

// NoteEnabled remembers that cox has enabled controllers in the root of a
// unified hierarchy, which is a folder. A file system that keeps no attributes
// is an error: then they stay enabled.
func NoteEnabled(root string, controllers ...string) error {
	all, err := noted(root)
	if err != nil {
		return err
	}
	all = append(all, controllers...)
	slices.Sort(all)
	if err := unix.Setxattr(root, mark, []byte(strings.Join(slices.Compact(all), " ")), 0); err != nil {
		return fmt.Errorf("note the controllers enabled in %s: %w", root, err)
	}
	return nil
}

func noted(root string) ([]string, error) {
	b := make([]byte, 4096)
	n, err := unix.Getxattr(root, mark, b)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the controllers enabled in %s: %w", root, err)
	}
	return strings.Fields(string(b[:n])), nil
}

// GiveBack disables in the root of the unified hierarchy the controllers that
// cox has enabled there and nobody uses any more. Call it when a cluster's
// groups are gone.
func GiveBack() error {
	hs, err := Hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hs {
		if h.V2 {
			errs = append(errs, giveBack(h.Mount))
		}
	}
	return errors.Join(errs...)
}

func giveBack(root string) error {
	all, err := noted(root)
	if err != nil || len(all) == 0 {
		return err
	}
	var kept []string
	for _, c := range all {
		if used(root, c) {
			kept = append(kept, c)
			continue
		}
		err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("-"+c), 0)
		switch {
		case errors.Is(err, unix.EBUSY): // somebody was faster
			kept = append(kept, c)
		case err != nil:
			return fmt.Errorf("disable the controller %s in %s: %w", c, root, err)
		}
	}
	if len(kept) > 0 {
		err = unix.Setxattr(root, mark, []byte(strings.Join(kept, " ")), 0)
	} else {
		err = unix.Removexattr(root, mark)
	}
	if err != nil {
		return fmt.Errorf("note the controllers enabled in %s: %w", root, err)
	}
	return nil
}

// used says that a group below root has use of a controller: it passes it on,
// has a limit by it, or it counts something there.
func used(root, controller string) bool {
	passes, _ := filepath.Glob(filepath.Join(root, "*", "cgroup.subtree_control"))
	for _, f := range passes {
		if slices.Contains(strings.Fields(text(f)), controller) {
			return true
		}
	}
	bounds, _ := filepath.Glob(filepath.Join(root, "*", controller+".*max"))
	for _, f := range bounds {
		if limits(text(f)) {
			return true
		}
	}
	counts, _ := filepath.Glob(filepath.Join(root, "*", controller+".*current"))
	for _, f := range counts {
		if s := text(f); s != "" && s != "0" {
			return true
		}
	}
	return false
}

// limits says that what a file of a limit holds is one. Of huge pages the
// kernel writes none as the most whole pages that a number of its can hold.
func limits(s string) bool {
	if s == "" || strings.HasPrefix(s, "max") {
		return false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return err != nil || n < 1<<62
}

// text is what a small file says, "" if it cannot be read.
func text(file string) string {
	b, _ := os.ReadFile(file)
	return strings.TrimSpace(string(b))
}
