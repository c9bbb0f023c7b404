package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/internal/mountinfo"
)

// ensureTmpfs mounts memory on dir unless something is mounted there. size is
// in bytes, 0 for the kernel's default.
func ensureTmpfs(dir string, size int64, mode os.FileMode) error {
	if mounted, err := mountinfo.Is(dir); err != nil || mounted {
		return err
	}
	opts := fmt.Sprintf("mode=%o", mode)
	if size > 0 {
		opts += ",size=" + strconv.FormatInt(size, 10)
	}
	// Secrets must not reach a swap device; kernels before 6.4 do not know
	// the option.
	err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

// ensureHugePages mounts a hugetlbfs; size is such as "2Mi".
func ensureHugePages(dir, size string) error {
	if mounted, err := mountinfo.Is(dir); err != nil || mounted {
		return err
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", 0, "pagesize="+strings.TrimSuffix(size, "i")); err != nil {
		return fmt.Errorf("mount hugetlbfs: %w", err)
	}
	return nil
}

// Unmount takes away all volumes of a pod, content included (of hostPaths and
// of what drivers brought nothing). It may be repeated.
func (m *Manager) Unmount(ctx context.Context, pod *corev1.Pod) error {
	begun := time.Now()
	err := m.unmount(ctx, pod.UID)
	for i := range pod.Spec.Volumes {
		m.did(pod, &pod.Spec.Volumes[i], "volume_unmount", begun, err)
	}
	return err
}

func (m *Manager) unmount(ctx context.Context, uid types.UID) error {
	if err := m.unmountDrivers(ctx, uid); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.claims, uid)
	m.mu.Unlock()
	return removeTree(m.PodDir(uid), filepath.Join(m.PodDir(uid), subpathsFolder), filepath.Join(m.PodDir(uid), volumesFolder))
}

// unmountDrivers takes away what CSI drivers brought, after the parts of it
// that containers have mounted: those would keep it busy.
func (m *Manager) unmountDrivers(ctx context.Context, uid types.UID) error {
	if m.CSI == nil || !m.CSI.Holds(uid) {
		return nil
	}
	parts := filepath.Join(m.PodDir(uid), subpathsFolder)
	if err := removeTree(parts, parts); err != nil {
		return err
	}
	return m.CSI.Unmount(ctx, uid)
}

// Remove deletes the pod's whole folder, volumes included.
func (m *Manager) Remove(ctx context.Context, uid types.UID) error {
	if err := m.unmountDrivers(ctx, uid); err != nil {
		return err
	}
	return removeTree(m.PodDir(uid), m.PodDir(uid))
}

// removeTree unmounts everything below a pod's folder, then deletes folders.
// Nothing is deleted while anything is mounted: that could be the host's own
// data.
func removeTree(podDir string, dirs ...string) error {
	if _, err := os.Lstat(podDir); os.IsNotExist(err) {
		return nil
	}
	real, err := filepath.EvalSymlinks(podDir)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.Below(real)
	if err != nil {
		return err
	}
	for _, p := range mounts {
		if err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW); err != nil {
			if err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", p, err)
			}
		}
	}
	if left, err := mountinfo.Below(real); err != nil || len(left) > 0 {
		return fmt.Errorf("still mounted below %s: %v (%w)", real, left, err)
	}
	for _, d := range dirs {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

// Share makes a folder a mount of its own whose mounts, and those below it,
// are seen in both directions by those containers that ask for it
// (mountPropagation), however the host has mounted what is above. It may be
// repeated.
func Share(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if mounted, err := mountinfo.Is(dir); err != nil {
		return err
	} else if !mounted {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}

// Pods lists the uids that have a folder.
func (m *Manager) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(m.root)
	if os.IsNotExist(err) {
		return nil, nil
	}
	var out []types.UID
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, types.UID(e.Name()))
		}
	}
	return out, err
}

// Subpath makes the part of a volume that a container mounts appear under a
// path of its own, which cannot be changed behind the kubelet's back: the
// part is opened without following links out of the volume and bound from the
// open file. n numbers the container's mounts.
func (m *Manager) Subpath(pod *corev1.Pod, volume, container string, n int, sub string) (string, error) {
	base, err := m.Path(pod, volume)
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("subPath %q must be a relative path without '..'", sub)
	}
	fd, isDir, err := openBelow(base, filepath.Clean(sub))
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	defer unix.Close(fd)
	target := filepath.Join(m.PodDir(pod.UID), subpathsFolder, volume, container, strconv.Itoa(n))
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if mounted, err := mountinfo.Is(target); err != nil {
		return "", err
	} else if mounted {
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			return "", fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	os.Remove(target)
	if isDir {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind subPath %q: %w", sub, err)
	}
	return target, nil
}

// openBelow opens sub below base as a path only, and makes missing folders
// with the mode of base. No component may lead out of base (openat2(2)).
func openBelow(base, sub string) (fd int, isDir bool, err error) {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, err
	}
	defer unix.Close(root)
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return -1, false, err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err = unix.Openat2(root, sub, &how)
	if errors.Is(err, unix.ENOENT) {
		if err := makeBelow(root, sub, st.Mode&0o7777, how); err != nil {
			return -1, false, err
		}
		fd, err = unix.Openat2(root, sub, &how)
	}
	if errors.Is(err, unix.EXDEV) {
		return -1, false, fmt.Errorf("subPath %q leads out of its volume", sub)
	}
	if err != nil {
		return -1, false, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, false, err
	}
	return fd, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

func makeBelow(root int, sub string, mode uint32, how unix.OpenHow) error {
	at, err := unix.Dup(root)
	if err != nil {
		return err
	}
	for _, name := range strings.Split(sub, "/") {
		next, err := unix.Openat2(at, name, &how)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(at, name, mode); err == nil || errors.Is(err, unix.EEXIST) {
				if next, err = unix.Openat2(at, name, &how); err == nil {
					// Apart from the umask; through /proc because O_PATH
					// cannot be fchmod'ed.
					err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(next), mode)
				}
			}
		}
		unix.Close(at)
		if err != nil {
			return err
		}
		at = next
	}
	return unix.Close(at)
}

// OpenFile opens a regular file in a volume for reading. No link leads out of
// the volume, and no pipe or device in the file's place is waited for. The
// caller closes it; errors are those of os.Open.
func OpenFile(volume, path string) (*os.File, error) {
	root, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: volume, Err: err}
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, filepath.Clean(path), &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return f, nil
}
