package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coxswain/cox/internal/mountinfo"
)

// kubeletDir is the kubelet's folder. Where that is not below the data
// directory, there is a link to it in its place.
func (c *config) kubeletDir() string {
	if elsewhere, err := os.Readlink(c.dir("kubelet")); err == nil {
		return elsewhere
	}
	return c.dir("kubelet")
}

// placeKubelet makes the kubelet's folder where it is asked for. Once made it
// stays: running pods have their volumes in it.
func (c *config) placeKubelet() error {
	if c.KubeletDir == "" || c.KubeletDir == c.kubeletDir() {
		return nil
	}
	if !filepath.IsAbs(c.KubeletDir) {
		return fmt.Errorf("%s is not an absolute path", c.KubeletDir)
	}
	if _, err := os.Lstat(c.dir("kubelet")); err == nil {
		return fmt.Errorf("the kubelet's folder is %s already; it can be chosen only before the first start", c.kubeletDir())
	}
	// An owner of pods there must not be disturbed.
	if pods, err := os.ReadDir(filepath.Join(c.KubeletDir, "pods")); err == nil && len(pods) > 0 {
		return fmt.Errorf("%s is in use: there are pods in it", c.KubeletDir)
	}
	if err := os.MkdirAll(c.KubeletDir, 0o750); err != nil {
		return err
	}
	return os.Symlink(filepath.Clean(c.KubeletDir), c.dir("kubelet"))
}

// purgeKubelet removes what the kubelet keeps outside the data directory,
// and nothing that somebody else may have put there.
func (c *config) purgeKubelet() error {
	dir := c.kubeletDir()
	if dir == c.dir("kubelet") {
		return nil
	}
	if err := mountinfo.UnmountBelow(dir); err != nil {
		return err
	}
	var errs []error
	for _, name := range []string{
		"pods", "plugins", "plugins_registry", "device-plugins", "pod-resources", "checkpoints", "seccomp", "image_manager",
		"cpu_manager_state", "memory_manager_state", "dra_manager_state",
	} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	_ = os.Remove(dir) // only when it is empty
	return errors.Join(errs...)
}
