package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// Written in place, replaced by a rename, and behind a link that moves, as a
// mounted ConfigMap does: each is told; another file of the folder is not.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(path, "one")
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, func() { b, _ := os.ReadFile(path); told <- string(b) }, path)
	}()
	expect := func(want string) {
		t.Helper()
		if got := <-told; got != want {
			t.Fatalf("told of %q, want %q", got, want)
		}
	}
	expect("one")
	write(filepath.Join(dir, "other"), "x")
	write(path, "written")
	expect("written")

	write(path+".new", "renamed")
	must(os.Rename(path+".new", path))
	expect("renamed")

	must(os.Mkdir(filepath.Join(dir, "v1"), 0o700))
	write(filepath.Join(dir, "v1", "config"), "linked")
	must(os.Symlink(filepath.Join("v1", "config"), path+".link"))
	must(os.Rename(path+".link", path))
	expect("linked")

	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("ended with %v", err)
	}
	select {
	case extra := <-told:
		t.Errorf("told once more: %q", extra)
	default:
	}
}

func TestNoFolder(t *testing.T) {
	if err := Run(t.Context(), func() {}, filepath.Join(t.TempDir(), "no", "file")); err == nil {
		t.Error("a folder that is not there can be watched")
	}
}
