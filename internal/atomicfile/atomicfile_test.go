package atomicfile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for name, write := range map[string]func(string, []byte, os.FileMode) error{"Write": Write, "WriteLight": WriteLight} {
		for _, mode := range []os.FileMode{0o600, 0o644} {
			if err := write(path, []byte(name), mode); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != name {
				t.Errorf("%s: the file holds %q, %v", name, got, err)
			}
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
				t.Errorf("%s: mode %v, want %v (%v)", name, st.Mode(), mode, err)
			}
		}
	}
	if err := Sync(dir); err != nil {
		t.Error(err)
	}
	left(t, dir, "state.json")
}

// A failure names the file and leaves nothing but what was there.
func TestFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := Write(path, []byte("x"), 0o600)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file over a folder: %v", err)
	}
	left(t, dir, "folder")
	if err := Write(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
		t.Error("a file was written into a folder that does not exist")
	}
}

// Readers find one writer's content, whole.
func TestWritersAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 50 {
				if err := WriteLight(path, bytes.Repeat([]byte{byte('a' + i)}, 10000), 0o600); err != nil {
					t.Error(err)
				}
				got, err := os.ReadFile(path)
				if err != nil || len(got) != 10000 || strings.Trim(string(got), string(got[:1])) != "" {
					t.Errorf("a part of a file: %d bytes, %v", len(got), err)
				}
			}
		})
	}
	writers.Wait()
	left(t, dir, "f")
}

func left(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the folder holds %v, want %v", got, want)
	}
}
