// Package filewatch tells when files change: paths go in, calls come out. It
// waits on the kernel, so files that do not change cost nothing.
package filewatch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long files must be left alone before they count as written.
const settle = 100 * time.Millisecond

// Run calls changed once the watch stands, and whenever the contents of one of
// the files may have become others, once per burst of changes, from one
// goroutine, until ctx ends. It
// watches the folders, so that files which are replaced by a rename (an
// editor's way) or through a link (a mounted ConfigMap's) are followed. A file
// need not exist; its folder must. The error is that of the watch.
func Run(ctx context.Context, changed func(), paths ...string) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer w.Close()
	for _, p := range paths {
		if err := w.Add(filepath.Dir(p)); err != nil {
			return fmt.Errorf("watch the folder of %s: %w", p, err)
		}
	}
	last := ""
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err, ok := <-w.Errors:
			if !ok {
				return fmt.Errorf("watch files: the watch ended")
			}
			return fmt.Errorf("watch files: %w", err)
		case _, ok := <-w.Events:
			if !ok {
				return fmt.Errorf("watch files: the watch ended")
			}
			timer.Reset(settle)
		case <-timer.C:
			if now := prints(paths); now != last {
				last = now
				changed()
			}
		}
	}
}

// prints is what tells the files' states apart without reading them.
func prints(paths []string) string {
	var out string
	for _, p := range paths {
		st, err := os.Stat(p) // through links
		if err != nil {
			out += "-;"
			continue
		}
		out += fmt.Sprintf("%d,%d,%v;", st.ModTime().UnixNano(), st.Size(), inode(st))
	}
	return out
}
