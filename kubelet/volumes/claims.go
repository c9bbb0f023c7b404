package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claimName is the claim behind a volume: its own, or the one made for the
// pod.
func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// claim finds where the volume behind a claim is, and gives it to the pod's
// group.
func (m *Manager) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, src Source) error {
	pv, err := src.Claim(ctx, claimName(pod, v), v.Ephemeral != nil)
	if err != nil {
		return err
	}
	if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", pv.Name)
	}
	dir := ""
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.HostPath != nil:
		if err := checkHostPath(s.HostPath); err != nil {
			return err
		}
		dir = s.HostPath.Path
	case s.Local != nil:
		if dir, err = m.local(pod, v, s.Local.Path); err != nil {
			return err
		}
	default:
		return fmt.Errorf("persistent volume %s has a source that is not supported by this kubelet: only hostPath and local are", pv.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claims[pod.UID] == nil {
		m.claims[pod.UID] = map[string]string{}
	}
	m.claims[pod.UID][v.Name] = dir
	return nil
}

// local checks a local volume and sets its owner (API documentation of
// fsGroup and LocalVolumeSource).
func (m *Manager) local(pod *corev1.Pod, v *corev1.Volume, path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("local volume source path %q cannot be used: %w", path, err)
	}
	fi, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("local volume source path %q is not a directory", path)
	}
	readOnly := v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	if g := fsGroup(pod); g != nil && !readOnly && !m.claimed(pod.UID, v.Name) {
		policy := pod.Spec.SecurityContext.FSGroupChangePolicy
		if err := giveGroup(real, int(*g), policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch); err != nil {
			return "", fmt.Errorf("set the group of the volume: %w", err)
		}
	}
	return real, nil
}

// claimed says that a volume behind a claim is in place already.
func (m *Manager) claimed(uid types.UID, volume string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.claims[uid][volume] != ""
}

// giveGroup gives everything below a folder to a group, which may read and
// write it, and whatever is made there later. mismatch leaves a folder alone
// whose root has the group already.
func giveGroup(root string, gid int, mismatch bool) error {
	const groupRW, groupX = 0o060, 0o010
	fi, err := os.Lstat(root)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && mismatch && int(st.Gid) == gid &&
		fi.Mode().Perm()&(groupRW|groupX) == groupRW|groupX && fi.Mode()&os.ModeSetgid != 0 {
		return nil
	}
	in, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer in.Close()
	return fs.WalkDir(in.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		if err != nil {
			return err
		}
		if err := in.Lchown(path, -1, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		fi, err := in.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := fi.Mode() | groupRW
		if d.IsDir() {
			mode |= os.ModeSetgid | groupX
		}
		return in.Chmod(path, mode)
	})
}
