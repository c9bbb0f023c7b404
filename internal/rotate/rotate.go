// Package rotate bounds a process's log file: lines go in, at most two files
// of a given size stay on disk.
package rotate

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Writer appends to a file and begins it anew, keeping one old file beside it
// (NAME.1), once a write would take it over its limit. It is safe for
// concurrent use by one process.
type Writer struct {
	path string
	max  int64

	mu   sync.Mutex
	f    *os.File
	size int64
}

// Open opens or makes the file (mode 0600) and directs the process's standard
// output and error to it, so that a crash is found there too. max is in bytes.
func Open(path string, max int64) (*Writer, error) {
	w := &Writer{path: path, max: max}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open the log: %w", err)
	}
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			f.Close()
			return fmt.Errorf("direct output to the log: %w", err)
		}
	}
	if w.f != nil {
		w.f.Close()
	}
	w.f, w.size = f, st.Size()
	return nil
}

// Write appends p whole to one file.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.size > 0 && w.size+int64(len(p)) > w.max {
		// On failure go on with the file there is: a log too long is better
		// than none.
		if err := os.Rename(w.path, w.path+".1"); err == nil {
			_ = w.open()
		}
	}
	n, err := w.f.Write(p)
	w.size += int64(n)
	return n, err
}
