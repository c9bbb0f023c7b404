package runtime

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestExtractKeepsWhatIsThereAndRemovesWhatIsOld(t *testing.T) {
	dir := t.TempDir()
	h, err := extract(dir)
	if errors.Is(err, ErrNoAssets) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(h.shim)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{CNIPlugin, "containerd-shim-runc-v2"} {
		st, err := os.Stat(filepath.Join(h.shimDir, name))
		if err != nil || !os.SameFile(st, before) {
			t.Errorf("%s is not the shim: %v", name, err)
		}
	}
	if _, err := extract(dir); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(h.shim); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("extracting again touched the program: %v", err)
	}

	// Two old versions, one of them running.
	var programs []string
	for _, hash := range []string{"0000", "1111"} {
		p := filepath.Join(dir, "cox-shim-"+hash, "cox-shim")
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := copyFile("/bin/cat", p); err != nil {
			t.Fatal(err)
		}
		programs = append(programs, p)
	}
	cmd := exec.Command(programs[1])
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if err := removeOld(dir, h); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{programs[0]: false, programs[1]: true, h.shim: true, h.containerd: true} {
		if _, err := os.Stat(p); (err == nil) != want {
			t.Errorf("%s is kept: %v, want %v", p, err == nil, want)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
