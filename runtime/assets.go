package runtime

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/s2"
	"golang.org/x/sync/errgroup"
)

//go:embed assets
var assets embed.FS

// ErrNoAssets says that the program was built by go build alone.
var ErrNoAssets = errors.New("this cox was built without its runtime; run make build")

// CNIPlugin is the name under which the CNI plugin is found in a plugin
// folder and named in a network configuration.
const CNIPlugin = "cox-cni"

// helpers are the paths of the extracted programs; shimDir is the folder in
// which the shim has its names.
type helpers struct{ containerd, shim, shimDir string }

// asset finds NAME.HASH.EXT and returns its path and hash.
func asset(name, ext string) (file, hash string, err error) {
	found, err := fs.Glob(assets, path.Join("assets", name+".*"+ext))
	if err != nil {
		return "", "", err
	}
	if len(found) != 1 {
		return "", "", ErrNoAssets
	}
	hash = strings.TrimSuffix(strings.TrimPrefix(path.Base(found[0]), name+"."), ext)
	return found[0], hash, nil
}

// DemoImage returns the OCI archive of the demo images cox.local/demo:1 and
// :2, or ErrNoAssets.
func DemoImage() (io.Reader, error) {
	file, _, err := asset("demo", ".tar")
	if err != nil {
		return nil, err
	}
	b, err := assets.ReadFile(file)
	return bytes.NewReader(b), err
}

// extract puts the helper programs into dir, each in a folder named after its
// content. A program that is there already is not touched: it may be running.
func extract(dir string) (helpers, error) {
	var h helpers
	var g errgroup.Group
	g.Go(func() (err error) {
		h.containerd, err = extractOne(dir, "cox-containerd", nil)
		return err
	})
	g.Go(func() (err error) {
		// The same file under three names: containerd finds the CNI plugin by
		// its name, and by the runtime's the shim of a container it recovers.
		h.shim, err = extractOne(dir, "cox-shim", []string{CNIPlugin, "containerd-shim-runc-v2"})
		return err
	})
	err := g.Wait()
	h.shimDir = filepath.Dir(h.shim)
	return h, err
}

func extractOne(dir, name string, links []string) (string, error) {
	file, hash, err := asset(name, ".s2")
	if err != nil {
		return "", err
	}
	final := filepath.Join(dir, name+"-"+hash)
	program := filepath.Join(final, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	defer os.RemoveAll(tmp)
	if err := unpack(file, filepath.Join(tmp, name)); err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	for _, l := range links {
		if err := os.Link(filepath.Join(tmp, name), filepath.Join(tmp, l)); err != nil {
			return "", fmt.Errorf("extract %s: %w", name, err)
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	// The rename makes it appear whole; another cox may have been faster.
	if err := os.Rename(tmp, final); err != nil {
		if _, there := os.Stat(program); there != nil {
			return "", fmt.Errorf("extract %s: %w", name, err)
		}
	}
	return program, nil
}

// removeOld removes the programs of other versions that no process runs any
// more; the shims of running pods keep theirs.
func removeOld(dir string, h helpers) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	keep := map[string]bool{filepath.Base(filepath.Dir(h.containerd)): true, filepath.Base(h.shimDir): true}
	var old []string
	for _, e := range entries {
		if n := e.Name(); !keep[n] && (strings.HasPrefix(n, "cox-containerd-") || strings.HasPrefix(n, "cox-shim-")) {
			old = append(old, filepath.Join(dir, n))
		}
	}
	if len(old) == 0 {
		return nil
	}
	running, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	inUse := map[string]bool{}
	for _, exe := range running {
		program, _ := os.Readlink(exe)
		inUse[filepath.Dir(program)] = true
	}
	var errs []error
	for _, o := range old {
		if !inUse[o] {
			errs = append(errs, os.RemoveAll(o))
		}
	}
	return errors.Join(errs...)
}

func unpack(file, to string) error {
	in, err := assets.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, s2.NewReader(in))
	return errors.Join(err, out.Close())
}
