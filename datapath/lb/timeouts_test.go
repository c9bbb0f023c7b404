package lb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSetTimeouts(t *testing.T) {
	dir := t.TempDir()
	if err := SetTimeouts(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the kernel's settings: %v", err)
	}
	put := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("nf_conntrack_tcp_timeout_established", "432000\n")
	put("nf_conntrack_tcp_timeout_close_wait", "3600\n")
	// Nothing may be written that is right already: a folder can be read only.
	right := filepath.Join(dir, "nf_conntrack_tcp_timeout_close_wait")
	before, err := os.Stat(right)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetTimeouts(dir); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(right)
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().Equal(before.ModTime()) {
		t.Error("a setting was written that was right")
	}
	for name, want := range map[string]string{"nf_conntrack_tcp_timeout_established": "86400", "nf_conntrack_tcp_timeout_close_wait": "3600"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.TrimSpace(string(raw)) != want {
			t.Errorf("%s: %q %v, want %s", name, raw, err, want)
		}
	}
}
