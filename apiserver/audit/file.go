package audit

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// FileOptions describe the log file.
type FileOptions struct {
	Path string
	// MaxBytes is the size at which the file is set aside under its time of
	// rotation; 0 means 100 MiB, upstream's default.
	MaxBytes int64
	// MaxBackups and MaxAge bound the files set aside; 0 keeps all.
	MaxBackups int
	MaxAge     time.Duration
	Now        func() time.Time
}

// File is a sink of JSON lines in a file of mode 0600.
type File struct {
	o FileOptions

	mu   sync.Mutex
	f    *os.File
	size int64
}

const rotatedTime = "2006-01-02T15-04-05.000"

// OpenFile opens the log file, appending to what is there.
func OpenFile(o FileOptions) (*File, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 100 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the audit log: %w", err)
	}
	l := &File{o: o}
	return l, l.open()
}

func (l *File) open() error {
	f, err := os.OpenFile(l.o.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("stat audit log: %w", err), f.Close())
	}
	// An existing file keeps the mode it was made with; it holds requests of
	// everyone, so it is narrowed.
	if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return errors.Join(fmt.Errorf("narrow the mode of the audit log: %w", err), f.Close())
		}
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Write appends one line, in one write.
func (l *File) Write(ev *auditv1.Event) error {
	line, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("encode audit event: %w", err)
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return os.ErrClosed
	}
	if l.size > 0 && l.size+int64(len(line)) > l.o.MaxBytes {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	return err
}

func (l *File) rotate() error {
	ext := filepath.Ext(l.o.Path)
	base := strings.TrimSuffix(l.o.Path, ext) + "-"
	aside := base + l.o.Now().UTC().Format(rotatedTime) + ext
	if _, err := os.Lstat(aside); err == nil {
		return nil // twice in one millisecond: let the file grow a little more
	}
	if err := os.Rename(l.o.Path, aside); err != nil {
		return fmt.Errorf("set audit log aside: %w", err)
	}
	old := l.f
	if err := l.open(); err != nil {
		return err // old stays open and is written on
	}
	return errors.Join(old.Close(), l.prune(base, ext))
}

func (l *File) prune(base, ext string) error {
	if l.o.MaxBackups == 0 && l.o.MaxAge == 0 {
		return nil
	}
	dir, prefix := filepath.Split(base)
	entries, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil {
		return err
	}
	type backup struct {
		name string
		at   time.Time
	}
	var found []backup
	for _, e := range entries {
		mid, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		mid, ok = strings.CutSuffix(mid, ext)
		if at, err := time.Parse(rotatedTime, mid); ok && err == nil {
			found = append(found, backup{e.Name(), at})
		}
	}
	slices.SortFunc(found, func(a, b backup) int { return cmp.Compare(b.at.UnixNano(), a.at.UnixNano()) })
	var errs []error
	for i, b := range found {
		if (l.o.MaxBackups > 0 && i >= l.o.MaxBackups) || (l.o.MaxAge > 0 && l.o.Now().Sub(b.at) > l.o.MaxAge) {
			errs = append(errs, os.Remove(filepath.Join(dir, b.name)))
		}
	}
	return errors.Join(errs...)
}

// Close ends the sink; later writes fail.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}
