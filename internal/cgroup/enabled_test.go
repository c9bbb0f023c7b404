package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What was enabled is disabled when nobody uses it any more, and only what was
// noted.
func TestGiveBack(t *testing.T) {
	for name, tc := range map[string]struct {
		noted []string
		files map[string]string // below the root
		wrote string            // into subtree_control
		kept  []string
	}{
		"unused":             {[]string{"hugetlb"}, map[string]string{"other/cgroup.subtree_control": "", "other/hugetlb.2MB.max": "max", "other/hugetlb.1GB.max": "9223372036854771712", "other/hugetlb.2MB.current": "0"}, "-hugetlb", nil},
		"enabled by others":  {nil, nil, "as found", nil},
		"passed on":          {[]string{"hugetlb"}, map[string]string{"other/cgroup.subtree_control": "pids hugetlb\n"}, "as found", []string{"hugetlb"}},
		"limited":            {[]string{"hugetlb"}, map[string]string{"other/hugetlb.2MB.rsvd.max": "2097152\n"}, "as found", []string{"hugetlb"}},
		"in use":             {[]string{"hugetlb"}, map[string]string{"other/hugetlb.1GB.current": "1073741824\n"}, "as found", []string{"hugetlb"}},
		"another is limited": {[]string{"hugetlb"}, map[string]string{"other/pids.max": "3"}, "-hugetlb", nil},
		"one of two":         {[]string{"hugetlb", "pids"}, map[string]string{"other/pids.max": "3"}, "-hugetlb", []string{"pids"}},
	} {
		root := t.TempDir()
		put := func(file, s string) {
			p := filepath.Join(root, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(s), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		put("cgroup.subtree_control", "as found")
		for f, s := range tc.files {
			put(f, s)
		}
		for _, c := range tc.noted {
			switch err := NoteEnabled(root, c); {
			case errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP):
				t.Skip("trusted attributes need root and a file system that has them:", err)
			case err != nil:
				t.Fatal(err)
			}
		}
		for range 2 { // the second time there is nothing left to do
			if err := giveBack(root); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		got := text(filepath.Join(root, "cgroup.subtree_control"))
		kept, err := noted(root)
		if err != nil || got != tc.wrote || !slices.Equal(kept, tc.kept) {
			t.Errorf("%s: wrote %q, keeps %v, %v", name, got, kept, err)
		}
	}
}
