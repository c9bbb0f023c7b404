package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/internal/mountinfo"
)

// defaultFilesystem is what a blank device of a local volume gets.
const defaultFilesystem = "ext4"

// localDevice mounts a local volume that is a block device, but is wanted as a
// folder (API documentation of LocalVolumeSource.fsType), for one pod. A blank
// device gets a filesystem first, one with anything on it never does. Pods that
// share the device have a mount each; they go with the pod's folder.
func (m *Manager) localDevice(ctx context.Context, pod *corev1.Pod, pv *corev1.PersistentVolume, device string, readOnly bool) (string, error) {
	dir := filepath.Join(m.PodDir(pod.UID), volumesFolder, "kubernetes.io~local-volume", pv.Name)
	if mounted, err := mountinfo.Is(dir); err == nil && mounted {
		return dir, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	m.formats.Lock() // of two pods that come at once, one formats
	defer m.formats.Unlock()
	kind, err := filesystemOf(ctx, device)
	if err != nil {
		return "", err
	}
	if kind == "" {
		if readOnly {
			return "", fmt.Errorf("local volume %s: %s has no filesystem, and is to be read only", pv.Name, device)
		}
		kind = defaultFilesystem
		if t := pv.Spec.Local.FSType; t != nil && *t != "" {
			kind = *t
		}
		if err := format(ctx, device, kind); err != nil {
			return "", fmt.Errorf("local volume %s: %w", pv.Name, err)
		}
	} else if t := pv.Spec.Local.FSType; t != nil && *t != "" && *t != kind {
		return "", fmt.Errorf("local volume %s: %s has the filesystem %s, not %s", pv.Name, device, kind, *t)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	options := append([]string{"defaults"}, pv.Spec.MountOptions...)
	if readOnly {
		options = append(options, "ro")
	}
	if out, err := exec.CommandContext(ctx, "mount", "-t", kind, "-o", strings.Join(options, ","), "--", device, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mount local volume %s: %w: %s", pv.Name, err, strings.TrimSpace(string(out)))
	}
	return dir, nil
}

// filesystemOf says what is on a device, "" for nothing at all. It does not
// guess: where that cannot be told, or there is something else such as a
// partition table, that is an error.
func filesystemOf(ctx context.Context, device string) (string, error) {
	out, err := exec.CommandContext(ctx, "blkid", "-p", "-o", "export", "--", device).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 && len(out) == 0 {
		return "", nil // nothing was found on it (blkid's manual)
	}
	if err != nil {
		return "", fmt.Errorf("what is on %s: %w", device, err)
	}
	for line := range strings.Lines(string(out)) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(line), "TYPE="); ok && kind != "" {
			return kind, nil
		}
	}
	return "", fmt.Errorf("%s has no filesystem, but is not blank: %s", device, strings.Join(strings.Fields(string(out)), " "))
}

// format makes a filesystem on a blank device.
func format(ctx context.Context, device, kind string) error {
	if kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return fmt.Errorf("%q is no kind of filesystem", kind)
	}
	args := []string{device}
	if strings.HasPrefix(kind, "ext") {
		// Nothing is kept back for root, and no question is asked.
		args = []string{"-F", "-m0", device}
	}
	if out, err := exec.CommandContext(ctx, "mkfs."+kind, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.%s %s: %w: %s", kind, device, err, strings.TrimSpace(string(out)))
	}
	return nil
}
