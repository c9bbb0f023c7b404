package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestRotateLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	names := func() []string {
		entries, _ := os.ReadDir(dir)
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	for i := range 6 {
		if err := os.WriteFile(path, fmt.Appendf(nil, "log %d\n", i), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := rotateLog(path, 4, noon.Add(time.Duration(i)*time.Minute), func() error { return os.WriteFile(path, nil, 0o640) }); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := names(), []string{"0.log", "0.log.20260301-120300.gz", "0.log.20260301-120400.gz", "0.log.20260301-120500"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if b, _ := os.ReadFile(path + ".20260301-120500"); string(b) != "log 5\n" {
		t.Errorf("newest: %q", b)
	}
	if err := os.WriteFile(path, []byte("kept"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := rotateLog(path, 4, noon.Add(time.Hour), func() error { return errors.New("no") }); err == nil {
		t.Error("want the runtime's error")
	}
	if b, _ := os.ReadFile(path); string(b) != "kept" {
		t.Errorf("after a failure: %q", b)
	}
}
