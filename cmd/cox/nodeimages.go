package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/coxswain/cox/runtime/images"
)

// imageFlags are where a node's images come from.
func (c *config) imageFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.RegistryDir, "registry-dir", "", "folder with a hosts.toml per registry, as containerd documents it: mirrors, TLS, credentials (default: /etc/containerd/certs.d)")
	fs.StringVar(&c.ImageDir, "image-dir", "", "folder of image archives (*.tar, *.tar.gz, *.tgz, *.tar.zst) that are imported at start (default: DATA-DIR/images)")
}

// importArchives imports what is new in the folder of image archives, before
// there are pods that want it. An archive that cannot be read is told of and
// left: the node runs all the same.
func (n *localNode) importArchives(ctx context.Context) {
	if n.cfg.RuntimeEndpoint != "" {
		return
	}
	names, err := images.ImportFolder(ctx, n.runtime.Conn(), n.cfg.ImageDir, n.cfg.dir("containerd", "archives.json"))
	if err != nil {
		n.log.Error("image archives", "error", err)
	}
	if len(names) > 0 {
		n.log.Info("image archives were imported", "images", strings.Join(names, " "))
	}
}

// shareArchives gives a further node on this machine the archives of this one.
// Links cost no room; an archive on another file system is copied.
func (c *config) shareArchives(m machine) error {
	entries, err := os.ReadDir(c.ImageDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("folder of image archives: %w", err)
	}
	to := filepath.Join(m.data, "cox", "images")
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := share(filepath.Join(c.ImageDir, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return fmt.Errorf("image archive %s: %w", e.Name(), err)
		}
	}
	return nil
}

// share makes to the same file as from, or a copy as old as it.
func share(from, to string) error {
	have, err := os.Stat(from)
	if err != nil {
		return err
	}
	if there, err := os.Stat(to); err == nil && there.Size() == have.Size() && there.ModTime().Equal(have.ModTime()) {
		return nil
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Chtimes(to, time.Time{}, have.ModTime())
}
