// Package programs makes container images out of what this machine has
// installed, so that an example needs no registry.
package programs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image says what a container image is made of.
type Image struct {
	// Programs (and loadable modules) of this machine come with the libraries
	// they need. A name is looked up and goes to /usr/bin; an absolute path
	// stays where it is.
	Programs []string
	// Trees are folders of this machine that come whole, at the same path,
	// with the libraries that shared objects in them need.
	Trees []string
	// Applets are names under which busybox is called.
	Applets []string
	// Files is content by path.
	Files map[string]string
	// Users, besides root and nobody, by number; groups have the same.
	Users      map[string]int
	Path       string // the environment's, /usr/bin if empty
	Entrypoint []string
	StopSignal string
}

// With returns the image with one file more.
func (i Image) With(path, content string) Image {
	i.Files = maps.Clone(i.Files)
	if i.Files == nil {
		i.Files = map[string]string{}
	}
	i.Files[path] = content
	return i
}

// Archive writes a docker archive with the images under their names. It fails
// if a program is missing, and says which package has it by asking packages.
func Archive(path string, images map[string]Image, packages map[string]string) error {
	all := map[name.Tag]v1.Image{}
	for tag, img := range images {
		t, err := name.NewTag(tag)
		if err != nil {
			return err
		}
		for _, p := range img.Programs {
			if _, err := Find(p); err != nil {
				return fmt.Errorf("image %s: %w: apt-get install %s", tag, err, packages[filepath.Base(p)])
			}
		}
		if all[t], err = img.build(); err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := tarball.MultiWrite(all, f); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// build returns the image. The programs and libraries are one layer, the files
// another, so that versions share the first.
func (i Image) build() (v1.Image, error) {
	var programs, files layer
	programs.open()
	for _, p := range i.Programs {
		if err := programs.program(p); err != nil {
			return nil, err
		}
	}
	for _, t := range i.Trees {
		if err := programs.tree(t); err != nil {
			return nil, err
		}
	}
	for _, a := range i.Applets {
		programs.link("usr/bin/"+a, "busybox")
	}
	programs.link("bin", "usr/bin")
	passwd, group := "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", "root:x:0:\nnogroup:x:65534:\n"
	for _, u := range slices.Sorted(maps.Keys(i.Users)) {
		passwd += fmt.Sprintf("%s:x:%d:%[2]d:%[1]s:/:/bin/sh\n", u, i.Users[u])
		group += fmt.Sprintf("%s:x:%d:\n", u, i.Users[u])
	}
	programs.write("etc/passwd", passwd)
	programs.write("etc/group", group)
	programs.folder("tmp", 0o1777)
	files.open()
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		files.write(path, i.Files[path])
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
	path := i.Path
	if path == "" {
		path = "/usr/bin"
	}
	cfg.Config = v1.Config{Entrypoint: i.Entrypoint, StopSignal: i.StopSignal, Env: []string{"PATH=" + path}}
	return mutate.ConfigFile(out, cfg)
}

// Find looks a program up, also where only root's PATH leads.
func Find(program string) (string, error) {
	if filepath.IsAbs(program) {
		_, err := os.Stat(program)
		return program, err
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", program)
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

// program adds a program and its libraries.
func (l *layer) program(name string) error {
	path, err := Find(name)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(name) {
		l.copy(path, "usr/bin/"+name)
		return l.libraries(path)
	}
	l.copy(path, strings.TrimPrefix(name, "/"))
	return l.libraries(path)
}

func (l *layer) libraries(path string) error {
	list, err := needs(path)
	if err != nil {
		return err
	}
	for _, lib := range list {
		l.copy(lib, strings.TrimPrefix(lib, "/"))
	}
	return nil
}

// tree adds all files under a folder.
func (l *layer) tree(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		l.copy(path, strings.TrimPrefix(path, "/")) // what a link leads to
		if strings.HasSuffix(path, ".so") {
			return l.libraries(path)
		}
		return nil
	})
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
