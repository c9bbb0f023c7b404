// Package runtimetest gives other packages' tests a real container runtime
// and an image to run in it.
package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/archive"
	"github.com/coxswain/cox/runtime/images"
)

// Busybox is the image that Import makes from the host's busybox.
const Busybox = "cox.local/busybox:1"

// Config returns the configuration of a runtime of the test's own and sees
// that nothing is left of it. It skips the test where real containers cannot
// run: without root, without the helpers or without crun and runc.
func Config(t testing.TB) runtime.Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real containers need root")
	}
	if _, err := runtime.DemoImage(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("/run", "coxt")
	if err != nil {
		t.Fatal(err)
	}
	// Users other than root, such as that of a pod with users of its own, need
	// to get through to the root file systems.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	cfg := runtime.Config{
		Root: filepath.Join(root, "rt"), State: filepath.Join(dir, "rt"), CgroupRoot: "/" + filepath.Base(dir),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	// One copy of the helpers for all tests of a machine.
	if cache, err := os.UserCacheDir(); err == nil {
		cfg.AssetsDir = filepath.Join(cache, "cox-test-helpers")
	}
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(filepath.Join(cfg.Root, "containerd.log")); err == nil {
				t.Logf("containerd.log:\n%s", b)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		purge := cfg
		purge.AssetsDir = filepath.Join(cfg.Root, "none")
		if err := runtime.Purge(ctx, purge); err != nil {
			t.Errorf("purge: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return cfg
}

// Start runs a runtime of the test's own.
func Start(t testing.TB) *runtime.Runtime {
	t.Helper()
	r, err := runtime.Start(t.Context(), Config(t))
	if errors.Is(err, runtime.ErrNoOCIRuntime) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// Archive makes an image of the host's busybox, which must be static.
func Archive(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static: " + err.Error())
	}
	files := []archive.File{{Path: "bin/busybox", Mode: 0o755, Data: b}}
	for _, applet := range []string{"sh", "sleep", "cat", "echo", "wget", "httpd", "nc", "ip", "ping", "true", "false", "id", "ls", "stty", "env", "head", "seq", "nslookup"} {
		files = append(files, archive.File{Path: "bin/" + applet, Mode: 0o755, Data: []byte(fmt.Sprintf("#!/bin/busybox sh\nexec /bin/busybox %s \"$@\"\n", applet))})
	}
	// A script cannot interpret scripts, so the shell is the program itself.
	files[1] = archive.File{Path: "bin/sh", Mode: 0o755, Data: b}
	files = append(files, archive.File{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")},
		archive.File{Path: "tmp/.keep", Mode: 0o644})
	var out bytes.Buffer
	err = archive.Write(&out, archive.Image{Name: name, Arch: goruntime.GOARCH, Files: files, Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Import brings Busybox into the runtime.
func Import(t testing.TB, r *runtime.Runtime) {
	t.Helper()
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(Archive(t, Busybox)), ""); err != nil {
		t.Fatal(err)
	}
}
