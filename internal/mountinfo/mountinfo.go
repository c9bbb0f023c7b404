// Package mountinfo answers what is mounted where, from /proc/self/mountinfo
// (proc(5)) and statx(2), and takes mounts away.
package mountinfo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a line of mountinfo.
type Mount struct {
	// ID is the mount's own, Parent that of the mount that it is mounted on.
	ID, Parent int
	// Device is that of its file system, as major:minor.
	Device string
	// Point is where it is mounted, as the reader's root sees it.
	Point string
	// Type, Source and Options are those of the file system, not of this
	// mount of it.
	Type, Source string
	Options      []string
}

// Read lists the mounts of this process's namespace in the kernel's order: a
// mount comes after the one that it is mounted on.
func Read() ([]Mount, error) { return ReadFile("/proc/self/mountinfo") }

// ReadFile is Read with another list.
func ReadFile(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	out, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return out, nil
}

// Parse reads lines of mountinfo; what is none is left out.
func Parse(r io.Reader) ([]Mount, error) {
	var out []Mount
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20) // an overlay names all its layers
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		// Fields are split at blanks only: an escaped one is no blank, and a
		// source may be empty.
		left, right := strings.Fields(before), strings.Split(after, " ")
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		id, err := strconv.Atoi(left[0])
		parent, err2 := strconv.Atoi(left[1])
		if err != nil || err2 != nil {
			continue
		}
		out = append(out, Mount{
			ID: id, Parent: parent,
			Device: left[2], Point: unescape(left[4]),
			Type: right[0], Source: unescape(right[1]), Options: strings.Split(unescape(right[2]), ","),
		})
	}
	return out, s.Err()
}

// unescape turns the octal escapes of blanks and the like back.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Is says that something is mounted at a path itself. A link is not followed,
// and what is not there is not mounted.
func Is(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("statx %s: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	return listed(path) // before Linux 5.8
}

// listed looks a path up in the list of mounts.
func listed(path string) (bool, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	mounts, err := Read()
	point := filepath.Join(parent, filepath.Base(path))
	return slices.ContainsFunc(mounts, func(m Mount) bool { return m.Point == point }), err
}

// Below lists the mount points at and below a folder, the last mounted first.
// A point is listed as often as something is mounted there. What lies hidden
// under a mount above the folder is not: no path leads to it.
func Below(dir string) ([]string, error) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	dir = filepath.Clean(dir)
	mounts, err := Read()
	if err != nil {
		return nil, err
	}
	hidden := hiddenFrom(filepath.Dir(dir), mounts)
	var out []string
	for _, m := range slices.Backward(mounts) {
		under := m.Point == dir || strings.HasPrefix(m.Point, strings.TrimSuffix(dir, "/")+"/")
		if under && !hidden(m) {
			out = append(out, m.Point)
		}
	}
	return out, nil
}

// hiddenFrom returns what tells of a mount that it is not mounted, at whatever
// depth, on the mount that one sees at a path. Where the kernel does not say
// which one that is (before Linux 5.8), nothing counts as hidden.
func hiddenFrom(path string, mounts []Mount) func(Mount) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return func(Mount) bool { return false }
	}
	parents := make(map[int]int, len(mounts))
	for _, m := range mounts {
		parents[m.ID] = m.Parent
	}
	return func(m Mount) bool {
		id, known := m.ID, true
		for range mounts { // never in a circle, whatever the list says
			if !known || id == int(st.Mnt_id) {
				break
			}
			id, known = parents[id], parents[id] != id
		}
		return id != int(st.Mnt_id)
	}
}

// UnmountBelow unmounts everything at and below the folders, what is in use
// too (MNT_DETACH), until there is nothing left: one mount may hide another,
// which shows, and can be unmounted, only once the first is gone, and a process
// that is ending may mount for the last time. It goes on after an error, and
// returns an error if anything stays mounted.
func UnmountBelow(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, unmountBelow(dir))
	}
	return errors.Join(errs...)
}

// most bounds the looks at a folder in which mounts appear as fast as they are
// taken away.
const most = 100

func unmountBelow(dir string) error {
	var errs []error
	for range most {
		points, err := Below(dir)
		if err != nil || len(points) == 0 {
			return err
		}
		errs = errs[:0]
		for _, p := range points {
			// EINVAL: another is mounted over a folder above it, or it went
			// together with one before it in the list.
			err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
			}
		}
		if len(errs) == len(points) {
			break // not one of them can be
		}
	}
	left, err := Below(dir)
	if err == nil && len(left) == 0 {
		return nil
	}
	return errors.Join(append(errs, err, fmt.Errorf("still mounted in %s: %v", dir, left))...)
}
