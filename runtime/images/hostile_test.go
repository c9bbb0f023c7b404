package images_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/images"
	"github.com/coxswain/cox/runtime/runtimetest"
)

func layer(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, 4
		}
		if h.Mode == 0 {
			h.Mode = 0o777
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write([]byte("evil")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHostileLayers imports images whose layers want to reach out of the
// image: whether refused or taken for something harmless, nothing outside is
// made, changed or removed.
func TestHostileLayers(t *testing.T) {
	r := runtimetest.Start(t)
	host := t.TempDir()
	canary := filepath.Join(host, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for name, entries := range map[string][]tar.Header{
		"a path upwards":                {{Name: up + host[1:] + "/new"}},
		"an absolute path":              {{Name: host + "/new"}},
		"through an absolute link":      {link("out", host), {Name: "out/new"}},
		"through a link upwards":        {link("out", up+host[1:]), {Name: "out/new"}},
		"over a file by a link":         {link("out", canary), {Name: "out"}},
		"through two links":             {link("a", "b"), link("b", host), {Name: "a/new"}},
		"a hard link to the host":       {{Typeflag: tar.TypeLink, Name: "theft", Linkname: canary}},
		"a hard link through a link":    {link("out", host), {Typeflag: tar.TypeLink, Name: "theft", Linkname: "out/canary"}},
		"a whiteout upwards":            {{Name: up + host[1:] + "/.wh.canary"}},
		"a whiteout through a link":     {link("out", host), {Name: "out/.wh.canary"}},
		"an opaque folder by a link":    {link("out", host), {Name: "out/.wh..wh..opq"}},
		"a whiteout of the parent":      {{Name: "d/.wh..."}, {Name: "d/.wh..."}},
		"a folder over a link":          {link("out", host), {Typeflag: tar.TypeDir, Name: "out", Mode: 0o700}, {Name: "out/new"}},
		"a path that begins here":       {{Name: "./././" + up + "new"}},
		"a device in place of a folder": {{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 254, Devminor: 0}},
	} {
		tag := strings.ReplaceAll(name, " ", "-") + ":1"
		_, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(layered(t, layer(t, entries...), tag)), "")
		t.Logf("%s: %v", name, err)
		if got, err := os.ReadFile(canary); err != nil || string(got) != "alive" {
			t.Fatalf("%s: the file outside: %q, %v", name, got, err)
		}
		if left, err := os.ReadDir(host); err != nil || len(left) != 1 {
			t.Fatalf("%s: the folder outside: %v, %v", name, left, err)
		}
	}
}

// TestEndlessLayer imports a layer with more files than the disk takes: that
// fails with the cause, leaves nothing, and the next image finds its room.
func TestEndlessLayer(t *testing.T) {
	cfg := runtimetest.Config(t)
	if err := os.MkdirAll(cfg.Root, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", cfg.Root, "tmpfs", 0, "size=96m,nr_inodes=3000"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(cfg.Root, unix.MNT_DETACH) })
	r, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	var many []tar.Header
	for i := range 5000 {
		many = append(many, tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%d", i)})
	}
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(layered(t, layer(t, many...), "endless:1")), ""); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("an image with more files than fit: %v", err)
	}
	if err := images.Remove(t.Context(), r.Conn(), "endless:1"); err != nil {
		t.Errorf("remove what was imported of it: %v", err)
	}
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(dockerArchive(t, "small:1")), ""); err != nil {
		t.Errorf("an image that fits: %v", err)
	}
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(layered(t, layer(t, many[:2500]...), "large:1")), ""); err != nil {
		t.Errorf("an image that takes what was freed: %v", err)
	}
}
