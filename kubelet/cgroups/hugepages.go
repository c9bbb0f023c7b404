package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// LimitHugePages bounds what a pod that has its group uses of huge pages, in
// bytes by page size as the kernel writes it ("2MB"). A host without the
// controller bounds nothing.
func (m *Manager) LimitHugePages(c Class, pod string, limits map[string]int64) error {
	group := m.Group(c, pod)
	if err := m.a.limitHugePages(group, limits); err != nil {
		return fmt.Errorf("limit the huge pages of cgroup %s: %w", group, err)
	}
	return nil
}

func (a *v1) limitHugePages(group string, limits map[string]int64) error {
	mount, ok := a.mounts["hugetlb"]
	if !ok {
		return nil
	}
	return putHugePages(filepath.Join(mount, group), "hugetlb.%s.limit_in_bytes", limits)
}

func (a *v2) limitHugePages(group string, limits map[string]int64) error {
	return putHugePages(filepath.Join(a.mount, group), "hugetlb.%s.max", limits)
}

// Most hybrid hosts leave this controller to v2, where runtimes put the
// containers' processes into groups of the same names.
func (a *hybrid) limitHugePages(group string, limits map[string]int64) error {
	if _, ok := a.mounts["hugetlb"]; ok {
		return a.v1.limitHugePages(group, limits)
	}
	if err := a.unified.create(group); err != nil {
		return err
	}
	return a.unified.limitHugePages(group, limits)
}

func putHugePages(dir, file string, limits map[string]int64) error {
	var errs []error
	for size, n := range limits {
		name := fmt.Sprintf(file, size)
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			continue // no controller, or a size that this kernel has not
		}
		errs = append(errs, writeInt(dir, name, n))
	}
	return errors.Join(errs...)
}
