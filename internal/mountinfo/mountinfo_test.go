package mountinfo

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	got, err := Parse(strings.NewReader(`24 1 0:22 / /proc rw,nosuid shared:5 - proc proc rw
no mount at all
31 24 0:52 / /a\040b\134040 rw,relatime shared:1 master:2 - overlay overlay rw,lowerdir=/x\040y,upperdir=/z
32 24 0:53 / /empty rw - tmpfs  rw
`))
	want := []Mount{
		{24, 1, "0:22", "/proc", "proc", "proc", []string{"rw"}},
		{31, 24, "0:52", `/a b\040`, "overlay", "overlay", []string{"rw", "lowerdir=/x y", "upperdir=/z"}},
		{32, 24, "0:53", "/empty", "tmpfs", "", []string{"rw"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`a\040b`)
	f.Add(`\`)
	f.Add(`\9999\4`)
	f.Fuzz(func(t *testing.T, s string) {
		if out := unescape(s); len(out) > len(s) {
			t.Errorf("%q became %q", s, out)
		}
		escaped := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(s)
		if out := unescape(escaped); out != s {
			t.Errorf("%q came back as %q", s, out)
		}
	})
}

// tmpfs mounts a file system until the test ends.
func tmpfs(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); errors.Is(err, unix.EPERM) {
		t.Skip("mounting is not permitted here")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestIs(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "a b")
	tmpfs(t, at)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(at, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(at, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{at: true, dir: false, link: false, filepath.Join(at, "in"): false, filepath.Join(at, "none"): false, filepath.Join(link, "in"): false} {
		if got, err := Is(path); got != want || err != nil {
			t.Errorf("Is(%s): %v, %v", path, got, err)
		}
		if got, err := listed(path); got != want || err != nil {
			t.Errorf("listed(%s): %v, %v", path, got, err)
		}
	}
}

func TestBelow(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "a", "b")
	tmpfs(t, a)
	tmpfs(t, b)
	tmpfs(t, filepath.Join(dir, "ab"))
	if err := os.Symlink(a, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		a: {b, a}, b: {b}, a + "/": {b, a}, filepath.Join(dir, "link"): {b, a}, filepath.Join(dir, "none"): nil,
		dir: {filepath.Join(dir, "ab"), b, a},
	} {
		if got, err := Below(path); err != nil || !slices.Equal(got, want) {
			t.Errorf("below %s: %v, %v; want %v", path, got, err, want)
		}
	}
	if all, err := Below("/"); err != nil || len(all) < 4 {
		t.Errorf("below the root: %v, %v", all, err)
	}
}

// One mount hides another below it: what was mounted in a folder before the
// folder was made a mount of its own, and one that is mounted twice.
func TestUnmountBelow(t *testing.T) {
	dir := t.TempDir()
	pods := filepath.Join(dir, "pods")
	tmpfs(t, pods)
	tmpfs(t, filepath.Join(pods, "volume"))
	if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	tmpfs(t, pods)
	held, err := os.Open(pods)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := UnmountBelow(filepath.Join(dir, "none"), dir); err != nil {
		t.Fatal(err)
	}
	if left, err := Below(dir); len(left) > 0 || err != nil {
		t.Errorf("still mounted: %v, %v", left, err)
	}
	if err := os.RemoveAll(pods); err != nil {
		t.Error(err)
	}
}

// What a mount above the folder hides is out of reach, and not in the way: so a
// node's namespaces may hold what its machine had mounted in /var/lib.
func TestHiddenFromAbove(t *testing.T) {
	dir := t.TempDir()
	over, in := filepath.Join(dir, "lib"), filepath.Join(dir, "lib", "kubelet")
	tmpfs(t, in)
	tmpfs(t, filepath.Join(in, "volume"))
	tmpfs(t, over)
	if got, err := Below(in); err != nil || len(got) > 0 {
		t.Errorf("out of reach, but listed: %v, %v", got, err)
	}
	tmpfs(t, in)
	if err := UnmountBelow(in); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(over, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := Below(in); err != nil || len(got) != 2 {
		t.Errorf("in reach again: %v, %v; want both", got, err)
	}
	if err := UnmountBelow(dir); err != nil {
		t.Error(err)
	}
}

// What mounts appear while others are taken away is seen by another look.
func TestUnmountBelowWhileMounting(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "late")
	tmpfs(t, at)
	done := make(chan error, 1)
	go func() {
		for range 20 {
			// ENOENT: what it would have been mounted on went that very moment.
			if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil && err != unix.ENOENT {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for ended := false; !ended; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			ended = true
		default:
		}
		if err := UnmountBelow(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(at); err != nil {
		t.Error(err)
	}
}
