package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names inside a volume: users see <key>, a link to ..data/<key>; ..data is a
// link to the folder that holds the present content and is replaced by one
// rename. (Layout documented with the configMap volume.)
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
)

// replace makes dir show exactly files, all at once. It does nothing when dir
// shows them already. group, if set, may read them all.
func replace(dir string, files map[string]file, group *int64) error {
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the volume's link: %w", err)
	}
	if old != "" && same(filepath.Join(dir, old), files, group) {
		return linkKeys(dir, files)
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := fill(fresh, files, group); err != nil {
		os.RemoveAll(fresh)
		return err
	}
	tmp := filepath.Join(dir, dataLinkNew)
	os.Remove(tmp) // of an earlier, broken attempt
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		os.RemoveAll(fresh)
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		os.RemoveAll(fresh)
		return err
	}
	if err := linkKeys(dir, files); err != nil {
		return err
	}
	return sweep(dir, filepath.Base(fresh), files)
}

// permissions of a file: what the group may do follows fsGroup.
func permissions(f file, group *int64) os.FileMode {
	m := os.FileMode(f.mode) & 0o777
	if group != nil {
		m |= 0o440
	}
	return m
}

func fill(dir string, files map[string]file, group *int64) error {
	dirMode := os.FileMode(0o755)
	if group != nil {
		dirMode |= os.ModeSetgid
	}
	if err := own(dir, dirMode, nil, group); err != nil {
		return err
	}
	for name, f := range files {
		p := filepath.Join(dir, name)
		for _, d := range parents(name) {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil && !os.IsExist(err) {
				return err
			}
			if err := own(filepath.Join(dir, d), dirMode, nil, group); err != nil {
				return err
			}
		}
		if err := os.WriteFile(p, f.data, 0o600); err != nil {
			return err
		}
		if err := own(p, permissions(f, group), f.uid, group); err != nil {
			return err
		}
	}
	return nil
}

// parents lists the folders above a relative path, outermost first.
func parents(name string) []string {
	var out []string
	for i, c := range name {
		if c == '/' {
			out = append(out, name[:i])
		}
	}
	return out
}

// own sets owner and mode. The owner comes first: chown clears mode bits.
func own(path string, mode os.FileMode, uid, gid *int64) error {
	if uid != nil || gid != nil {
		u, g := -1, -1
		if uid != nil {
			u = int(*uid)
		}
		if gid != nil {
			g = int(*gid)
		}
		if err := os.Chown(path, u, g); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// same says that a folder holds exactly files.
func same(dir string, files map[string]file, group *int64) bool {
	n := 0
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		want, ok := files[rel]
		if !ok {
			return os.ErrExist
		}
		fi, err := d.Info()
		if err != nil || fi.Mode().Perm() != permissions(want, group) || fi.Size() != int64(len(want.data)) {
			return os.ErrInvalid
		}
		have, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(have, want.data) {
			return os.ErrInvalid
		}
		n++
		return nil
	})
	return err == nil && n == len(files)
}

func topName(name string) string {
	top, _, _ := strings.Cut(name, "/")
	return top
}

// linkKeys makes the links that users see.
func linkKeys(dir string, files map[string]file) error {
	for name := range files {
		top := topName(name)
		link := filepath.Join(dir, top)
		if to, err := os.Readlink(link); err == nil && to == filepath.Join(dataLink, top) {
			continue
		}
		if err := os.Symlink(filepath.Join(dataLink, top), link); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// sweep removes the links of keys that are gone and all folders but the
// present one.
func sweep(dir, present string, files map[string]file) error {
	keep := map[string]bool{present: true, dataLink: true}
	for name := range files {
		keep[topName(name)] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
