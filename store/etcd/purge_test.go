package etcd

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// TestLogIsPurged writes more files of the log than are kept, in few large
// entries: etcd removes none of them before its next snapshot, which is not
// told, and all but a few after it.
func TestLogIsPurged(t *testing.T) {
	defer func(size int64) { wal.SegmentSizeBytes = size }(wal.SegmentSizeBytes)
	wal.SegmentSizeBytes = 1 << 20
	dir := filepath.Join(t.TempDir(), "etcd")
	var log bytes.Buffer
	again := func() *Server {
		t.Helper()
		s, err := Start(t.Context(), Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	files := func() int {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	s := again()
	for i := range 12 {
		if _, err := s.Put(t.Context(), fmt.Sprint("large", i), strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, s)
	many := files()
	s = again() // it looks what to remove as it starts
	if many <= 6 || files() < many {
		t.Errorf("%d files of the log, then %d: those are needed", many, files())
	}
	var all sync.WaitGroup
	for w := range 50 {
		all.Go(func() {
			for range 102 { // 5100 entries: a snapshot
				if _, err := s.Put(t.Context(), fmt.Sprint("small", w), ""); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	closed(t, s)
	s = again()
	// Its stop waits for the removal that has begun.
	closed(t, s)
	if n := files(); n > 6 {
		t.Errorf("%d files of the log are left after a snapshot", n)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", &log)
	}
}

// TestWarningOfLocks: only a file that is in use is no news.
func TestWarningOfLocks(t *testing.T) {
	var log bytes.Buffer
	lg := newZap(slog.New(slog.NewTextHandler(&log, nil)), &failure{})
	lg.Warn("failed to lock file", zap.String("path", "a.wal"), zap.Error(fileutil.ErrLocked))
	if log.Len() > 0 {
		t.Errorf("told: %s", &log)
	}
	lg.Warn("failed to lock file", zap.String("path", "b.wal"), zap.Error(os.ErrPermission))
	lg.Warn("failed to do it", zap.Error(fileutil.ErrLocked))
	if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "b.wal") {
		t.Errorf("told: %s", got)
	}
}
