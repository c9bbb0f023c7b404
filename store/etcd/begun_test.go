package etcd

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// unbegunLog makes the log of a member as it is before its members are in it,
// and gives it more.
func unbegunLog(t *testing.T, dir string, more func(*wal.WAL) error) string {
	t.Helper()
	metadata := etcdserverpb.Metadata{NodeID: 1, ClusterID: 2}
	data, err := metadata.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := wal.Create(zap.NewNop(), filepath.Join(dir, "member", "wal"), data)
	if err != nil {
		t.Fatal(err)
	}
	if more != nil {
		if err := more(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal")
}

// A member that was killed at any moment of its first start starts.
func TestKilledAtFirstStart(t *testing.T) {
	add := raftpb.Entry{Term: 1, Index: 1, Type: raftpb.EntryConfChange, Data: []byte{}}
	for name, leave := range map[string]func(t *testing.T, dir string){
		"nothing":             func(*testing.T, string) {},
		"a log without entry": func(t *testing.T, dir string) { unbegunLog(t, dir, nil) },
		"a member that is not committed": func(t *testing.T, dir string) {
			unbegunLog(t, dir, func(w *wal.WAL) error { return w.Save(raftpb.HardState{Term: 1}, []raftpb.Entry{add}) })
		},
		"a torn entry": func(t *testing.T, dir string) {
			path := unbegunLog(t, dir, func(w *wal.WAL) error {
				return w.Save(raftpb.HardState{}, []raftpb.Entry{add})
			})
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			end := int64(len(bytes.TrimRight(b, "\x00")))
			if err := os.Truncate(path, end-3); err != nil {
				t.Fatal(err)
			}
		},
		"a database without log": func(t *testing.T, dir string) {
			snap := filepath.Join(dir, "member", "snap")
			if err := os.MkdirAll(snap, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := backend.NewDefaultBackend(zap.NewNop(), filepath.Join(snap, "db")).Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			leave(t, dir)
			var log bytes.Buffer
			s, err := Start(t.Context(), Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatalf("%v\n%s", err, &log)
			}
			defer closed(t, s)
			if _, err := s.Put(t.Context(), "a", "b"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A log with anything that somebody may have been told of stays.
func TestBegunIsKept(t *testing.T) {
	add := raftpb.Entry{Term: 1, Index: 1, Type: raftpb.EntryConfChange, Data: []byte{}}
	for name, more := range map[string]func(w *wal.WAL) error{
		"committed members": func(w *wal.WAL) error { return w.Save(raftpb.HardState{Term: 1, Commit: 1}, []raftpb.Entry{add}) },
		"a write": func(w *wal.WAL) error {
			return w.Save(raftpb.HardState{Term: 1}, []raftpb.Entry{add, {Term: 1, Index: 2, Data: []byte("x")}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := unbegunLog(t, dir, more)
			if cleared, err := clearUnbegun(dir); cleared || err != nil {
				t.Errorf("cleared: %t, %v", cleared, err)
			}
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("what is not understood", func(t *testing.T) {
		dir := t.TempDir()
		path := unbegunLog(t, dir, nil)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[30] ^= 0xff
		for _, content := range [][]byte{b, b[:20], []byte("something else"), nil} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if cleared, err := clearUnbegun(dir); cleared || err != nil {
				t.Errorf("%d bytes: cleared: %t, %v", len(content), cleared, err)
			}
		}
	})
}
