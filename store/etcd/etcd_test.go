package etcd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func start(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := Start(t.Context(), Config{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closed(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPast starts watches in the past: they catch up, and etcd has the
// variables that say how soon, and when a watch is one.
func TestPast(t *testing.T) {
	s := start(t, t.TempDir())
	defer closed(t, s)
	if watchResyncPeriod != resync {
		t.Errorf("etcd looks for watches of the past every %v, want %v", watchResyncPeriod, resync)
	}
	if chanBufLen != lag {
		t.Errorf("a watch may lag %d writes behind, want %d", chanBufLen, lag)
	}
	first, err := s.Put(t.Context(), "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "a", "2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var values []string
	err = s.Follow(ctx, first.Header.Revision-1, func(events []*clientv3.Event) {
		for _, e := range events {
			values = append(values, string(e.Kv.Value))
		}
		if len(values) == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || strings.Join(values, " ") != "1 2" {
		t.Errorf("followed %q, %v", values, err)
	}
}

// TestStart makes a data directory as upstream lays it out, and finds its
// data again. Nothing is logged on the way.
func TestStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "etcd")
	var log bytes.Buffer
	cfg := Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("data directory has mode %v (%v), want 0700", st.Mode(), err)
	}
	for _, p := range []string{"member/wal/0000000000000000-0000000000000000.wal", "member/snap/db"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			t.Error(err)
		}
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("the data directory holds %v, want member alone", names)
	}
	s, err = Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	resp, err := s.Get(t.Context(), "a")
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatal(resp, err)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", &log)
	}
}

// TestRevision holds the cheap answer against etcd's own.
func TestRevision(t *testing.T) {
	s := start(t, t.TempDir())
	defer closed(t, s)
	for n := range 5 {
		if _, err := s.Put(t.Context(), fmt.Sprint(n), "x"); err != nil {
			t.Fatal(err)
		}
		got, err := s.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want, err := revision(t.Context(), s.Client)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("revision %d, want %d", got, want)
		}
	}
}

func TestWatchAndLease(t *testing.T) {
	s := start(t, t.TempDir())
	defer closed(t, s)
	w := s.Watch(t.Context(), "a", clientv3.WithPrefix())
	g, err := s.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "a1", "x", clientv3.WithLease(g.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(t.Context(), g.ID); err != nil {
		t.Fatal(err)
	}
	var types []string
	for len(types) < 2 {
		for _, ev := range (<-w).Events {
			types = append(types, ev.Type.String())
		}
	}
	if got := strings.Join(types, " "); got != "PUT DELETE" {
		t.Errorf("got %s", got)
	}
}

// refused asserts that Start fails soon and says all of the words.
func refused(t *testing.T, dir string, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Start(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		s.Close()
		t.Fatal("it started")
	}
	for _, w := range append(words, dir) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	t.Log(err)
}

func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	refused(t, dir, "in use by another process", "stop it")
	closed(t, s)
	closed(t, start(t, dir))

	// A stock etcd has the database open.
	db, err := os.Open(filepath.Join(dir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := syscall.Flock(int(db.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "in use by another process")
}

func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "diary.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "no etcd data", "diary.txt")
	file := filepath.Join(dir, "diary.txt")
	refused(t, file, "not a directory")
}

// TestCorrupt damages each kind of file.
func TestCorrupt(t *testing.T) {
	const (
		wal = "member/wal/0000000000000000-0000000000000000.wal"
		db  = "member/snap/db"
	)
	for name, tc := range map[string]struct {
		file   string
		damage func([]byte) []byte
		words  []string
	}{
		"log overwritten": {wal, func(b []byte) []byte {
			for i := 200; i < 400; i++ {
				b[i] ^= 0xff
			}
			return b
		}, []string{"corrupt", "restore a backup"}},
		"log of something else":      {wal, func([]byte) []byte { return []byte("hello, this is not a log at all") }, []string{"corrupt", "restore a backup"}},
		"database of something else": {db, func([]byte) []byte { return bytes.Repeat([]byte("nonsense"), 4096) }, []string{"corrupt", "restore a backup"}},
		"database cut off":           {db, func(b []byte) []byte { return b[:100] }, []string{"corrupt", "restore a backup"}},
		"database of another version": {db, func(b []byte) []byte {
			for page := 0; page < 2; page++ { // both meta pages
				binary.LittleEndian.PutUint32(b[page*os.Getpagesize()+20:], 99)
			}
			return b
		}, []string{"corrupt or not etcd's"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := start(t, dir)
			for n := range 20 {
				if _, err := s.Put(t.Context(), fmt.Sprint(n), strings.Repeat("x", 100)); err != nil {
					t.Fatal(err)
				}
			}
			closed(t, s)
			path := filepath.Join(dir, tc.file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tc.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, tc.words...)
		})
	}
}

// TestMain also is the process that TestDiskFull lets run out of disk.
func TestMain(m *testing.M) {
	if dir := os.Getenv("COX_TEST_FILL"); dir != "" {
		fillUp(dir)
		return
	}
	os.Exit(m.Run())
}

// fillUp writes until etcd fails, counts what was acknowledged on standard
// output and says there why etcd failed.
func fillUp(dir string) {
	s, err := Start(context.Background(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for n := 0; ; n++ {
			if _, err := s.Put(context.Background(), fmt.Sprintf("k%06d", n), strings.Repeat("x", 1<<20)); err != nil {
				return
			}
			fmt.Println("ok")
		}
	}()
	<-s.Failed()
	if _, err := s.Revision(context.Background()); err == nil {
		fmt.Println("a failed member still answers")
	}
	refuses(s)
	fmt.Println(s.Err())
	s.Close()
}

// refuses says of each call of a failed member whether it is answered with the
// reason; etcd itself would let some wait for ever.
func refuses(s *Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, call := range map[string]func() error{
		"get":     func() error { _, err := s.Get(ctx, "k"); return err },
		"put":     func() error { _, err := s.Put(ctx, "k", "v"); return err },
		"delete":  func() error { _, err := s.Delete(ctx, "k"); return err },
		"do":      func() error { _, err := s.Do(ctx, clientv3.OpGet("k")); return err },
		"txn":     func() error { _, err := s.Txn(ctx).Then(clientv3.OpGet("k")).Commit(); return err },
		"swap":    func() error { _, _, err := s.Swap(ctx, "k", 0, nil, 0); return err },
		"compact": func() error { _, err := s.Compact(ctx, 1); return err },
	} {
		if err := call(); !errors.Is(err, s.Err()) {
			fmt.Printf("%s of a failed member: %v\n", name, err)
		} else {
			fmt.Println(name + " refused")
		}
	}
}

// TestDiskFull takes the disk's space away below a running member: it says
// so, and what was acknowledged before is there once there is room again.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", mnt).CombinedOutput(); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() { syscall.Unmount(mnt, syscall.MNT_DETACH) })
	dir := filepath.Join(mnt, "data")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "COX_TEST_FILL="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	acked := strings.Count(string(out), "ok\n")
	if acked == 0 || !strings.Contains(string(out), "is full") || !strings.Contains(string(out), "free space") {
		t.Fatalf("%d writes acknowledged; the process said:\n%s", acked, out)
	}
	if n := strings.Count(string(out), " refused\n"); n != 7 {
		t.Errorf("%d kinds of calls were refused after the failure:\n%s", n, out)
	}
	if out, err := exec.Command("mount", "-o", "remount,size=600m", mnt).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := start(t, dir)
	defer closed(t, s)
	resp, err := s.Get(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if int(resp.Count) < acked {
		t.Errorf("%d keys of %d acknowledged", resp.Count, acked)
	}
}

func TestPeerAddress(t *testing.T) {
	if _, err := Start(t.Context(), Config{Dir: t.TempDir(), PeerURL: "nonsense"}); err == nil || !strings.Contains(err.Error(), "peer address") {
		t.Errorf("got %v", err)
	}
}
