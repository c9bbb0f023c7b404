package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDataDisk fills the file system of the data directory under a cluster
// that works. The server ends, and says why it cannot start; once there is room
// again it is as before: what was acknowledged is there, no pod is reported to
// run that does not, and nothing is left of those that are deleted.
func TestFullDataDisk(t *testing.T) {
	c := ownCluster(t)
	if err := os.MkdirAll(c.data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", c.data, "tmpfs", 0, "size=700m"); errors.Is(err, unix.EPERM) {
		t.Skip("mounting is not permitted here")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(c.data, unix.MNT_DETACH) })
	c.must(t, "up")
	c.apply(t, crowd(2, "cox.local/demo:1"))
	c.honest(t, 2)
	hog := filepath.Join(c.data, "hog")
	fill(t, hog)
	// The store goes on within the room that it has taken.
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("x", 900<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	var kept []string
	eventually(t, "a write that fails", func() (bool, string) {
		name := fmt.Sprintf("big-%d", len(kept))
		out, err := c.try("create", "configmap", name, "--from-file="+big)
		if err == nil {
			kept = append(kept, name)
		}
		return err != nil, out
	})
	t.Logf("%d large writes on a full disk", len(kept))
	eventually(t, "the server's end, and why none can start", func() (bool, string) {
		out, err := c.run("up")
		return err != nil && strings.Contains(out, c.data) && (strings.Contains(out, "full") || strings.Contains(out, "free")), out
	})
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	c.must(t, "up")
	for _, name := range kept {
		c.kubectl(t, "get", "configmap", name, "-o", "name")
	}
	c.apply(t, strings.ReplaceAll(crowd(1, "cox.local/demo:1"), "p0", "later"))
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/later", "--timeout=3m")
	// A full disk is a reason to evict pods: those have ended.
	for line := range strings.Lines(c.kubectl(t, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.podIP}{"\n"}{end}`)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "Running" {
			continue
		}
		if out, err := fetch("http://" + f[2] + ":8080/healthz"); err != nil || out != "ok" {
			t.Errorf("%s is reported to run: %q, %v", f[0], out, err)
		}
	}
	c.kubectl(t, "delete", "pods", "--all")
	c.noPodLeft(t)
	if out := c.must(t, "down", "--purge"); !strings.Contains(out, "gone without a trace") {
		t.Error(out)
	}
	if left, err := os.ReadDir(c.data); err != nil || len(left) > 0 {
		t.Errorf("left in a data directory that is a file system of its own: %v, %v", left, err)
	}
}

// fill writes a file until there is no room for more.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, chunk := range []int64{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = io.CopyN(f, zeros{}, chunk)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk cannot be filled: %v", err)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
