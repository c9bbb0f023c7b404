package guestbook

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// image says what a container image is made of.
type image struct {
	programs   []string          // of this machine, with the libraries they need
	applets    []string          // names under which busybox is called
	files      map[string]string // content by path
	entrypoint []string
	stopSignal string
}

// with returns the image with one file more.
func (i image) with(path, content string) image {
	i.files = maps.Clone(i.files)
	if i.files == nil {
		i.files = map[string]string{}
	}
	i.files[path] = content
	return i
}

// build returns the image. The programs and libraries are one layer, the files
// another, so that versions share the first.
func (i image) build() (v1.Image, error) {
	var programs, files layer
	programs.open()
	for _, p := range i.programs {
		path, err := find(p)
		if err != nil {
			return nil, err
		}
		libraries, err := needs(path)
		if err != nil {
			return nil, err
		}
		programs.copy(path, "usr/bin/"+p)
		for _, l := range libraries {
			programs.copy(l, strings.TrimPrefix(l, "/"))
		}
	}
	for _, a := range i.applets {
		programs.link("usr/bin/"+a, "busybox")
	}
	programs.link("bin", "usr/bin")
	programs.write("etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	programs.write("etc/group", "root:x:0:\nnogroup:x:65534:\n")
	programs.folder("tmp", 0o1777)
	files.open()
	for _, path := range slices.Sorted(maps.Keys(i.files)) {
		files.write(path, i.files[path])
	}
	out := empty.Image
	for _, l := range []*layer{&programs, &files} {
		made, err := l.close()
		if err != nil {
			return nil, err
		}
		if out, err = mutate.AppendLayers(out, made); err != nil {
			return nil, err
		}
	}
	cfg, err := out.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.Architecture, cfg.OS = runtime.GOARCH, "linux"
	cfg.Config = v1.Config{Entrypoint: i.entrypoint, StopSignal: i.stopSignal, Env: []string{"PATH=/usr/bin"}}
	return mutate.ConfigFile(out, cfg)
}

// find looks a program up, also where only root's PATH leads.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: apt-get install %s", program, Programs[program])
}

// needs lists the shared libraries of a program, the loader included.
func needs(program string) ([]string, error) {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("not a dynamic executable")) {
			return nil, nil
		}
		return nil, fmt.Errorf("ldd %s: %w: %s", program, err, out)
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				list = append(list, field)
			}
		}
	}
	return list, nil
}

// layer is a tar archive under construction. The first error sticks.
type layer struct {
	buf  bytes.Buffer
	tar  *tar.Writer
	seen map[string]bool
	err  error
}

func (l *layer) open() {
	l.tar, l.seen = tar.NewWriter(&l.buf), map[string]bool{}
}

// add writes one entry, unless it is there already.
func (l *layer) add(h tar.Header, content []byte) {
	if l.err != nil || l.seen[h.Name] {
		return
	}
	l.seen[h.Name] = true
	h.Size = int64(len(content))
	if l.err = l.tar.WriteHeader(&h); l.err == nil {
		_, l.err = l.tar.Write(content)
	}
}

func (l *layer) copy(from, to string) {
	raw, err := os.ReadFile(from)
	if err != nil {
		if l.err == nil {
			l.err = err
		}
		return
	}
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: 0o755}, raw)
}

func (l *layer) write(path, content string) {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644}, []byte(content))
}

func (l *layer) link(path, target string) {
	l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}, nil)
}

func (l *layer) folder(path string, mode int64) {
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: mode}, nil)
}

func (l *layer) close() (v1.Layer, error) {
	if l.err == nil {
		l.err = l.tar.Close()
	}
	if l.err != nil {
		return nil, l.err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(l.buf.Bytes())), nil
	})
}
