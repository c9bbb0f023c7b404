package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/archive"
	"github.com/coxswain/cox/runtime/images"
	"github.com/coxswain/cox/runtime/runtimetest"
)

// dockerArchive is what `docker save` writes.
func dockerArchive(t *testing.T, tags ...string) []byte {
	t.Helper()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 2}); err != nil {
		t.Fatal(err)
	}
	tw.Write([]byte("hi"))
	tw.Close()
	return layered(t, layer.Bytes(), tags...)
}

// layered is the archive of an image with one layer, a tar stream.
func layered(t *testing.T, layer []byte, tags ...string) []byte {
	t.Helper()
	config, _ := json.Marshal(map[string]any{
		"architecture": goruntime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"/hello"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": tags, "Layers": []string{"abc/layer.tar"}}})
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{{"config.json", config}, {"abc/layer.tar", layer}, {"manifest.json", manifest}} {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		tw.Write(f.data)
	}
	tw.Close()
	return out.Bytes()
}

func zip(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func oci(t *testing.T, img archive.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Write(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImportListRemove(t *testing.T) {
	r := runtimetest.Start(t)
	_, cri := r.CRI()
	file := []archive.File{{Path: "a/b", Mode: 0o644, Data: []byte("x")}}
	// An archive whose image has only a tag for a name.
	bare := bytes.ReplaceAll(oci(t, archive.Image{Name: "x/y:2.0", Arch: goruntime.GOARCH, Files: file}), []byte(`"io.containerd.image.name"`), []byte(`"com.example.other.thing1"`))
	for name, c := range map[string]struct {
		data []byte
		as   string
		want []string
	}{
		"docker":         {dockerArchive(t, "app:1", "example.com/team/app:1"), "", []string{"docker.io/library/app:1", "example.com/team/app:1"}},
		"docker, zipped": {zip(t, dockerArchive(t, "zipped")), "", []string{"docker.io/library/zipped:latest"}},
		"oci":            {oci(t, archive.Image{Name: "cox.local/oci:1", Arch: goruntime.GOARCH, Files: file}), "", []string{"cox.local/oci:1"}},
		"oci, by tag":    {bare, "team/named", []string{"docker.io/team/named:2.0"}},
	} {
		got, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(c.data), c.as)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
		for _, n := range c.want {
			st, err := cri.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: n}})
			if err != nil || st.Image == nil {
				t.Errorf("%s: CRI does not know %s: %v", name, n, err)
			}
		}
	}
	for name, c := range map[string]struct {
		data     []byte
		as, want string
	}{
		"no name":       {bare, "", "give it a name"},
		"no archive":    {[]byte("hello"), "", "not a whole OCI or docker archive"},
		"cut off":       {dockerArchive(t, "cut")[:2000], "", "not a whole OCI or docker archive"},
		"bad name":      {bare, "UPPER CASE", "must be lowercase"},
		"other machine": {oci(t, archive.Image{Name: "cox.local/other:1", Arch: "s390x", Files: file}), "", "no image for linux/" + goruntime.GOARCH},
	} {
		got, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(c.data), c.as)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: imported %v, %v; want an error with %q", name, got, err, c.want)
		}
	}

	names := func() (out []string) {
		list, err := images.List(t.Context(), r.Conn())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if i.Pinned != slices.Contains(i.Names, runtime.PauseImage) {
				t.Errorf("pinned %v: %v", i.Pinned, i.Names)
			}
			out = append(out, strings.Join(i.Names, " "))
		}
		return out
	}
	if got := strings.Join(names(), "\n"); !strings.Contains(got, "docker.io/library/app:1 ") || !strings.Contains(got, "example.com/team/app:1") {
		t.Errorf("list: %s", got)
	}
	// One name of several, then the last with the image.
	for _, n := range []string{"app:1", "zipped", "example.com/team/app:1"} {
		if err := images.Remove(t.Context(), r.Conn(), n); err != nil {
			t.Errorf("remove %s: %v", n, err)
		}
	}
	if got := strings.Join(names(), "\n"); strings.Contains(got, "app:1") || !strings.Contains(got, "oci:1") {
		t.Errorf("after removal: %s", got)
	}
	if err := images.Remove(t.Context(), r.Conn(), "app:1"); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("remove again: %v", err)
	}
}

// TestExport takes images of which the node has only the unpacked layers out
// of a runtime, and in again.
func TestExport(t *testing.T) {
	r := runtimetest.Start(t)
	lower := oci(t, archive.Image{Name: "cox.local/whole:1", Arch: goruntime.GOARCH, Cmd: []string{"/a/keep"}, Files: []archive.File{
		{Path: "a/keep", Mode: 0o755, Data: []byte("kept")}, {Path: "a/drop", Mode: 0o644, Data: []byte("dropped")},
	}})
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(lower), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(dockerArchive(t, "other:1")), ""); err != nil {
		t.Fatal(err)
	}
	// The removal of an image waits for the removal of all that nothing needs,
	// packed layers too.
	if _, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(dockerArchive(t, "gone:1")), ""); err != nil {
		t.Fatal(err)
	}
	if err := images.Remove(t.Context(), r.Conn(), "gone:1"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := images.Export(t.Context(), r.Conn(), &out, "cox.local/whole:1", "other:1"); err != nil {
		t.Fatal(err)
	}
	found := files(t, out.Bytes())
	if found["a/keep"] != "kept" || found["a/drop"] != "dropped" || found["hello"] != "hi" {
		t.Errorf("the archive's layers hold %q", found)
	}
	if err := images.Export(t.Context(), r.Conn(), &bytes.Buffer{}, "cox.local/none:1"); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("export of an image that is not there: %v", err)
	}
	for _, n := range []string{"cox.local/whole:1", "other:1"} {
		if err := images.Remove(t.Context(), r.Conn(), n); err != nil {
			t.Fatal(err)
		}
	}
	got, err := images.Import(t.Context(), r.Conn(), bytes.NewReader(out.Bytes()), "")
	if want := []string{"cox.local/whole:1", "docker.io/library/other:1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("imported again: %v, %v, want %v", got, err, want)
	}
}

// files reads all layers of an OCI archive.
func files(t *testing.T, data []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(tr)
		if !strings.HasPrefix(h.Name, "blobs/") || err != nil {
			continue
		}
		for layer := tar.NewReader(z); ; {
			h, err := layer.Next()
			if err != nil {
				break
			}
			b, err := io.ReadAll(layer)
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				out[h.Name] = string(b)
			}
		}
	}
}

func TestImportFolder(t *testing.T) {
	r := runtimetest.Start(t)
	dir, done := t.TempDir(), filepath.Join(t.TempDir(), "done")
	load := func(what, problem string, want ...string) {
		t.Helper()
		got, err := images.ImportFolder(t.Context(), r.Conn(), dir, done)
		if !slices.Equal(got, want) || (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v, %v; want %v, %q", what, got, err, want, problem)
		}
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load("an empty folder", "")
	write("a.tar", dockerArchive(t, "a:1"))
	write("b.tar.gz", zip(t, dockerArchive(t, "b:1")))
	write("broken.tar", []byte("hello"))
	write("notes.txt", nil)
	load("the first time", "broken.tar: the file is not a whole", "docker.io/library/a:1", "docker.io/library/b:1")
	load("again", "broken.tar")
	if err := images.Remove(t.Context(), r.Conn(), "a:1"); err != nil {
		t.Fatal(err)
	}
	load("an image was removed", "broken.tar", "docker.io/library/a:1")
	write("broken.tar", dockerArchive(t, "mended:1"))
	write("b.tar.gz", zip(t, dockerArchive(t, "b:1", "b:2")))
	load("changed", "", "docker.io/library/b:1", "docker.io/library/b:2", "docker.io/library/mended:1")
	dir = filepath.Join(dir, "none")
	load("no folder", "")
}
