// Package atomicfile replaces files as a whole: whoever reads one, also after
// a crash, finds the old content or the new, never a part.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Write replaces the file, or makes it, with the given mode. Its content is
// on disk before it takes the name, so that a power failure leaves no empty
// file; that the name lasts too is up to Sync of the folder, for those who
// must not fall back to the old content. The folder must exist. Of several
// writers at once the last one wins. An error names the file, and leaves
// the old content.
func Write(path string, data []byte, mode fs.FileMode) error { return write(path, data, mode, true) }

// WriteLight is Write for what can be made again: it does not wait for the
// disk.
func WriteLight(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, false)
}

func write(path string, data []byte, mode fs.FileMode, sync bool) (err error) {
	// Made with mode 0600, under a name that no one takes for the file's.
	tmp, err := os.CreateTemp(filepath.Dir(path), unfinished(filepath.Base(path))+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
		}
	}()
	if err = fill(tmp, data, mode, sync); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func unfinished(file string) string { return "." + file + "." }

// Unfinished reports whether name, in the folder of file, is what a writer of
// file left behind that was killed. Both are names without a folder.
func Unfinished(name, file string) bool { return strings.HasPrefix(name, unfinished(file)) }

func fill(f *os.File, data []byte, mode fs.FileMode, sync bool) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return f.Sync()
}

// Sync makes the names in a folder last through a power failure.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
