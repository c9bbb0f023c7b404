package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// failure remembers the first thing that etcd could not live with.
type failure struct {
	dir  string
	once sync.Once
	err  error
	done chan struct{}
}

func newFailure(dir string) *failure { return &failure{dir: dir, done: make(chan struct{})} }

func (f *failure) set(err error) {
	f.once.Do(func() {
		f.err = explain(f.dir, err)
		close(f.done)
	})
}

func (f *failure) get() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// OnWrite is zap's hook for entries that would end the process. Neither level
// may return to its caller, so the goroutine ends instead.
func (f *failure) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	msg, cause := e.Message, error(nil)
	for _, fd := range fields {
		if err, ok := fd.Interface.(error); ok && fd.Type == zapcore.ErrorType {
			cause = err
		}
	}
	if cause != nil {
		f.set(fmt.Errorf("%s: %w", msg, cause))
	} else {
		f.set(errors.New(msg))
	}
	runtime.Goexit()
}

// explain adds the cause and the remedy in the user's terms.
func explain(dir string, err error) error {
	text := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), has("no space left on device"):
		return fmt.Errorf("the disk of %s is full: free space and start again; nothing that was acknowledged is lost (%w)", dir, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the file system of %s is read-only: remount it and start again (%w)", dir, err)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("the disk of %s reports errors: replace it and restore a backup (%w)", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("etcd may not use its data in %s: give it to the user that cox runs as (%w)", dir, err)
	case has("crc mismatch", "cannot be repaired", "failed to read WAL", "failed to repair WAL", "unexpected EOF", "failed to open WAL", "wal: ", "cannot use none as id"):
		return fmt.Errorf("the etcd log in %s/member/wal is corrupt: restore a backup into an empty directory (%w)", dir, err)
	case has("invalid database", "version mismatch", "failed to open database", "checksum error", "file size too small"):
		return fmt.Errorf("the etcd database %s/member/snap/db is corrupt or not etcd's: restore a backup into an empty directory (%w)", dir, err)
	case has("cluster cannot be downgraded", "invalid downgrade", "unsupported storage version", "storage version"):
		return fmt.Errorf("the etcd data in %s was written by a newer etcd than this one: use the newer cox, or restore an older backup (%w)", dir, err)
	}
	return fmt.Errorf("etcd in %s: %w", dir, err)
}

// newZap returns a logger that passes warnings and worse to log and tells f
// about what would end the process. Everything below a warning costs nothing.
func newZap(log *slog.Logger, f *failure) *zap.Logger {
	return zap.New(&core{log: log}, zap.WithFatalHook(f), zap.WithPanicHook(f))
}

// core adapts slog to zap.
type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log, fields: append(append([]zapcore.Field(nil), c.fields...), fields...)}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// expected is what etcd warns of in every healthy start of a single member:
// elections asked for before the log is applied, and a storage version that
// it writes only with its first snapshot.
var expected = [...]string{
	"cannot campaign at term",
	"is unpromotable and can not campaign",
	"Failed to detect schema version",
	"failed to update storage version",
	"failed to update cluster version",      // stopped right after its start
	"server has stopped; skipping GoAttach", // work that its stop came before
}

// harmless says that an entry tells of something that is as it should be for
// the reason that it gives:
//
//   - a file of the log that etcd would remove, being more than it is to keep,
//     and has not: itself it needs the file until its next snapshot, which large
//     entries are few enough to make wait (it would tell so twice a minute);
//   - that it does not publish its address yet, while it applies a long log at
//     its start (it would tell so thousands of times a second).
func harmless(e zapcore.Entry, fields []zapcore.Field) bool {
	reason := map[string]error{
		"failed to lock file": fileutil.ErrLocked,
		"failed to publish local member to cluster through raft": etcderrors.ErrTooManyRequests,
	}[e.Message]
	return reason != nil && slices.ContainsFunc(fields, func(f zapcore.Field) bool { return f.Interface == reason })
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	for _, s := range expected {
		if strings.Contains(e.Message, s) {
			return nil
		}
	}
	if harmless(e, fields) {
		return nil
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields)+1)
	for k, v := range enc.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.log.LogAttrs(context.Background(), level, "etcd: "+e.Message, attrs...)
	return nil
}

func (c *core) Sync() error { return nil }
