package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A lock that cannot be written is no lock: a server does not start by it.
func TestLock(t *testing.T) {
	c := &config{DataDir: t.TempDir()}
	f, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.lock(); err == nil || !strings.Contains(err.Error(), "is in use by another cox") {
		t.Errorf("locked twice: %v", err)
	}
	f.Close()
	full := &config{DataDir: t.TempDir()}
	if err := os.Symlink("/dev/full", filepath.Join(full.DataDir, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := full.lock(); err == nil {
		t.Error("a server starts although its lock cannot be written")
	}
}
