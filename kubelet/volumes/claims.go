package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/kubelet/csi"
)

// claim puts the volume behind a claim in place and gives it to the pod's
// group. It returns when that is to be repeated, zero for never.
func (m *Manager) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, src Source) (time.Time, error) {
	pvc, pv, err := src.Claim(ctx, podspec.ClaimName(pod, v), v.Ephemeral != nil)
	if err != nil {
		return time.Time{}, err
	}
	block := pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
	mounted, mapped := usage(pod, v.Name)
	if block && mounted {
		return time.Time{}, fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", v.Name)
	} else if !block && mapped {
		return time.Time{}, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", v.Name)
	}
	at := place{block: block}
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.CSI != nil && !mounted && !mapped:
		return time.Time{}, nil // nobody looks at it, and drivers are not asked for nothing
	case s.CSI != nil:
		readOnly := v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
		return m.driver(ctx, &csi.Volume{Pod: pod, Name: v.Name, PV: pv, Claim: pvc, ReadOnly: readOnly})
	case s.HostPath != nil && !block:
		if err := checkHostPath(s.HostPath); err != nil {
			return time.Time{}, err
		}
		at.path = s.HostPath.Path
	case s.Local != nil && block:
		if at.path, err = blockDevice(s.Local.Path); err != nil {
			return time.Time{}, err
		}
	case s.Local != nil:
		if at.path, err = m.local(ctx, pod, v, pv); err != nil {
			return time.Time{}, err
		}
	default:
		return time.Time{}, fmt.Errorf("persistent volume %s has a source that is not supported by this kubelet: only csi, hostPath and local are", pv.Name)
	}
	m.put(pod.UID, v.Name, at)
	return time.Time{}, nil
}

// driver has a CSI driver put a volume in place.
func (m *Manager) driver(ctx context.Context, v *csi.Volume) (time.Time, error) {
	if m.CSI == nil {
		return time.Time{}, errors.New("there are no CSI drivers on this node")
	}
	p, err := m.CSI.Mount(ctx, v)
	if err != nil {
		return time.Time{}, err
	}
	if g := fsGroup(v.Pod); g != nil && p.Fresh && p.Group {
		policy := v.Pod.Spec.SecurityContext.FSGroupChangePolicy
		if err := giveGroup(p.Path, int(*g), policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch); err != nil {
			return time.Time{}, fmt.Errorf("set the group of the volume: %w", err)
		}
	}
	m.put(v.Pod.UID, v.Name, place{p.Path, p.Block})
	return p.Again, nil
}

// usage says how the pod's containers use a volume: as a folder, as a device.
func usage(pod *corev1.Pod, name string) (mounted, mapped bool) {
	look := func(mounts []corev1.VolumeMount, devices []corev1.VolumeDevice) {
		mounted = mounted || slices.ContainsFunc(mounts, func(v corev1.VolumeMount) bool { return v.Name == name })
		mapped = mapped || slices.ContainsFunc(devices, func(v corev1.VolumeDevice) bool { return v.Name == name })
	}
	for i := range pod.Spec.InitContainers {
		look(pod.Spec.InitContainers[i].VolumeMounts, pod.Spec.InitContainers[i].VolumeDevices)
	}
	for i := range pod.Spec.Containers {
		look(pod.Spec.Containers[i].VolumeMounts, pod.Spec.Containers[i].VolumeDevices)
	}
	for i := range pod.Spec.EphemeralContainers {
		look(pod.Spec.EphemeralContainers[i].VolumeMounts, pod.Spec.EphemeralContainers[i].VolumeDevices)
	}
	return mounted, mapped
}

// blockDevice checks that a local volume is a block device.
func blockDevice(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("local volume source path %q cannot be used: %w", path, err)
	}
	fi, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if mode := fi.Mode(); mode&os.ModeDevice == 0 || mode&os.ModeCharDevice != 0 {
		return "", fmt.Errorf("local volume source path %q is not a block device", path)
	}
	return real, nil
}

// Device returns where the block device of a pod's volume is on the host.
func (m *Manager) Device(pod *corev1.Pod, name string) (string, error) {
	at, ok := m.placed(pod.UID, name)
	if !ok || !at.block {
		return "", fmt.Errorf("volume %q is no block device that is in place", name)
	}
	return at.path, nil
}

func (m *Manager) put(uid types.UID, volume string, at place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claims[uid] == nil {
		m.claims[uid] = map[string]place{}
	}
	m.claims[uid][volume] = at
}

func (m *Manager) placed(uid types.UID, volume string) (place, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.claims[uid][volume]
	return at, ok
}

// local checks a local volume, mounts it if it is a device, and sets its owner
// (API documentation of fsGroup and LocalVolumeSource).
func (m *Manager) local(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume) (string, error) {
	path := pv.Spec.Local.Path
	readOnly := v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("local volume source path %q cannot be used: %w", path, err)
	}
	fi, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	switch mode := fi.Mode(); {
	case mode.IsDir():
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		if real, err = m.localDevice(ctx, pod, pv, real, readOnly); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("local volume source path %q is not a directory", path)
	}
	_, placed := m.placed(pod.UID, v.Name)
	if g := fsGroup(pod); g != nil && !readOnly && !placed {
		policy := pod.Spec.SecurityContext.FSGroupChangePolicy
		if err := giveGroup(real, int(*g), policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch); err != nil {
			return "", fmt.Errorf("set the group of the volume: %w", err)
		}
	}
	return real, nil
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
