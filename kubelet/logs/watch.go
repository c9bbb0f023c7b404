package logs

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watcher tells that a log may have grown or been rotated.
type watcher struct {
	f *os.File
	// changed gets a value after a change; several may become one. An error
	// is the last.
	changed chan error
}

func newWatcher(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the log: %w", err)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), changed: make(chan error, 1)}
	// The folder alone: it tells of writes to the files in it too.
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		w.f.Close()
		return nil, fmt.Errorf("watch the log: %w", err)
	}
	go w.run()
	return w, nil
}

func (w *watcher) run() {
	buf := make([]byte, 4096)
	for {
		// What the events are does not matter, only that there were some.
		_, err := w.f.Read(buf)
		select {
		case w.changed <- err:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (w *watcher) close() { w.f.Close() }
