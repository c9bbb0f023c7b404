// Package etcd runs an etcd member inside this process, or dials an external
// cluster. Out of it comes clientv3's KV, Watcher and Lease, which is all that
// package store needs.
//
// The data directory is laid out as upstream's etcd lays it out (member/wal,
// member/snap/db), so either can open the other's data.
package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
)

// Config says where an embedded member keeps its data and what it is called.
type Config struct {
	// Dir is the data directory; it is made with mode 0700 when absent.
	Dir string
	// Name is the member's stable name; "default" when empty.
	Name string
	// PeerURL is the address that the member announces to other members. A
	// single member does not listen on it. https://127.0.0.1:2380 when empty.
	PeerURL string
	// QuotaBytes bounds the database file; 8 GiB when 0.
	QuotaBytes int64
	// Log gets etcd's warnings and errors; slog.Default() when nil.
	Log *slog.Logger
}

// Server is an etcd member running in this process. Its embedded client calls
// it directly, without gRPC. It is safe for concurrent use.
type Server struct {
	*clientv3.Client

	etcd    *etcdserver.EtcdServer
	kv      etcdserverpb.KVServer // for Swap
	lock    *os.File
	failure *failure
	log     *slog.Logger
	acked   atomic.Int64 // greatest revision that a write was answered with
}

// A single member needs its ticks for nothing: it campaigns at once (see
// lead), has no one to send heartbeats to and steps down for no one. Long
// ticks let an idle machine sleep. They do bound some of etcd's time-outs
// (a request's: 5 s + 2 elections; the shortest lease: 1.5 elections).
const (
	tick          = 2500 * time.Millisecond
	electionTicks = 2
)

// Start opens or makes the data directory and returns once the member leads
// and serves. The error names the cause and what to do about it. Close ends
// the member; ctx bounds only the start.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	if cfg.PeerURL == "" {
		cfg.PeerURL = "https://127.0.0.1:2380"
	}
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = 8 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	lock, err := prepareDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	switch cleared, err := clearUnbegun(cfg.Dir); {
	case err != nil:
		lock.Close()
		return nil, err
	case cleared:
		cfg.Log.Info("etcd had been killed during its first start; it starts anew", "dir", cfg.Dir)
	}
	s := &Server{lock: lock, failure: newFailure(cfg.Dir), log: cfg.Log}
	scfg, err := s.config(cfg)
	if err != nil {
		lock.Close()
		return nil, err
	}
	if err := s.open(scfg); err != nil {
		lock.Close()
		return nil, err
	}
	s.etcd.Start()
	if err := s.lead(ctx); err != nil {
		s.stop()
		return nil, err
	}
	s.Client = v3client.New(s.etcd)
	s.kv = v3rpc.NewQuotaKVServer(s.etcd)
	s.acked.Store(s.etcd.KV().Rev())
	s.Client.KV = &ackedKV{s.Client.KV, s.note, s.failure}
	return s, nil
}

func (s *Server) config(cfg Config) (config.ServerConfig, error) {
	peer, err := types.NewURLs([]string{cfg.PeerURL})
	if err != nil {
		return config.ServerConfig{}, fmt.Errorf("etcd peer address %q: %w", cfg.PeerURL, err)
	}
	lg := newZap(cfg.Log, s.failure)
	return config.ServerConfig{
		Name:               cfg.Name,
		DataDir:            cfg.Dir,
		ClientURLs:         types.URLs{url.URL{Scheme: "https", Host: "127.0.0.1:2379"}},
		PeerURLs:           peer,
		InitialPeerURLsMap: types.URLsMap{cfg.Name: peer},
		// It goes into the ids of cluster and member, which stay with the data.
		InitialClusterToken: rand.Text(),
		NewCluster:          true,

		TickMs:        uint(tick / time.Millisecond),
		ElectionTicks: electionTicks,
		PreVote:       true,

		// Entries of the log that have been applied are of use only to
		// followers, of which there are none: keep few of them in memory.
		SnapshotCount:          5000,
		SnapshotCatchUpEntries: 64,
		MaxSnapFiles:           5,
		MaxWALFiles:            5,

		// What is acknowledged is in the log; the database may follow later.
		// Under many writes it follows sooner: what it has not taken is in
		// memory several times over, as values, in buffers and in pages.
		BackendBatchInterval: 2 * time.Second,
		BackendBatchLimit:    2000,
		QuotaBackendBytes:    cfg.QuotaBytes,

		MaxTxnOps:                   1024,
		MaxRequestBytes:             1.5 * 1024 * 1024,
		WarningApplyDuration:        500 * time.Millisecond,
		WarningUnaryRequestDuration: time.Second,
		StrictReconfigCheck:         true,
		BcryptCost:                  10,
		// etcd's own tickers for what a single member has no use for.
		CompactHashCheckTime: time.Hour,
		DowngradeCheckTime:   time.Hour,
		// A watch asks for progress when it needs it.
		WatchProgressNotifyInterval: 10 * time.Minute,

		V2Deprecation:     config.V2DeprDefault,
		ServerFeatureGate: features.NewDefaultServerFeatureGate(cfg.Name, lg),
		Metrics:           "basic",
		Logger:            lg,
	}, nil
}

// open builds the server. etcd reports what it cannot live with by ending
// the process or panicking; the goroutine below is where that lands instead.
func (s *Server) open(cfg config.ServerConfig) error {
	quieten()
	type result struct {
		srv *etcdserver.EtcdServer
		err error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("%v", p)
			}
			done <- r // also after the failure hook's Goexit
		}()
		r.srv, r.err = etcdserver.NewServer(cfg)
	}()
	// A failure may strike on a goroutine of etcd's own, which leaves
	// NewServer waiting for ever.
	select {
	case r := <-done:
		if err := s.failure.get(); err != nil {
			return err
		}
		if r.err != nil {
			return explain(cfg.DataDir, r.err)
		}
		s.etcd = r.srv
		return nil
	case <-s.failure.done:
		return s.failure.get()
	}
}

// Revision returns a revision at least as great as that of every write
// acknowledged before the call.
func (s *Server) Revision(context.Context) (int64, error) {
	if err := s.failure.get(); err != nil {
		return 0, err
	}
	// All that was ever acknowledged went through this client: there is no
	// other member, and no listener. What etcd deletes by itself, when a
	// lease expires, is acknowledged to no one.
	return s.acked.Load(), nil
}

// Size is that of the database file, in bytes.
func (s *Server) Size(context.Context) (int64, error) {
	if err := s.failure.get(); err != nil {
		return 0, err
	}
	return s.etcd.Backend().Size(), nil
}

// Failed is closed when etcd can no longer go on (a full disk, a broken log);
// Err then says why. Nothing is acknowledged any more; the process is to end.
func (s *Server) Failed() <-chan struct{} { return s.failure.done }

// Err is nil until Failed is closed.
func (s *Server) Err() error { return s.failure.get() }

// Close ends the member and releases the data directory. All that was
// acknowledged is on disk in any case.
func (s *Server) Close() error {
	// The client first: its watches and leases end before what serves them.
	err := s.Client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	s.stop()
	return err
}

func (s *Server) stop() {
	if s.failure.get() != nil {
		// Goroutines of the failed server may be gone in mid-step, so that an
		// orderly stop can wait for ever. The process is about to end; give
		// it a moment to unlock its files.
		done := make(chan struct{})
		go func() { defer close(done); s.etcd.HardStop() }()
		select {
		case <-done:
		case <-time.After(time.Second):
			s.log.Warn("etcd does not stop after its failure; leaving it")
		}
	} else {
		s.etcd.HardStop()
	}
	s.lock.Close()
	runtime.KeepAlive(s.lock)
}

// note remembers the revision that a write was answered with.
func (s *Server) note(revision int64) {
	for {
		old := s.acked.Load()
		if revision <= old || s.acked.CompareAndSwap(old, revision) {
			return
		}
	}
}

// ackedKV remembers the revisions of the writes that pass through it. After a
// failure it refuses all: etcd, a goroutine of which may be gone with a lock in
// its hands, could leave them without an answer.
type ackedKV struct {
	clientv3.KV
	note    func(revision int64)
	failure *failure
}

func (k *ackedKV) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	if err := k.failure.get(); err != nil {
		return nil, err
	}
	resp, err := k.KV.Put(ctx, key, val, opts...)
	if err == nil {
		k.note(resp.Header.Revision)
	}
	return resp, err
}

func (k *ackedKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	if err := k.failure.get(); err != nil {
		return nil, err
	}
	resp, err := k.KV.Delete(ctx, key, opts...)
	if err == nil {
		k.note(resp.Header.Revision)
	}
	return resp, err
}

func (k *ackedKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := k.failure.get(); err != nil {
		return nil, err
	}
	return k.KV.Get(ctx, key, opts...)
}

func (k *ackedKV) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	if err := k.failure.get(); err != nil {
		return nil, err
	}
	return k.KV.Compact(ctx, rev, opts...)
}

func (k *ackedKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if err := k.failure.get(); err != nil {
		return clientv3.OpResponse{}, err
	}
	resp, err := k.KV.Do(ctx, op)
	if err != nil {
		return resp, err
	}
	switch {
	case resp.Put() != nil:
		k.note(resp.Put().Header.Revision)
	case resp.Del() != nil:
		k.note(resp.Del().Header.Revision)
	case resp.Txn() != nil:
		k.note(resp.Txn().Header.Revision)
	}
	return resp, err
}

func (k *ackedKV) Txn(ctx context.Context) clientv3.Txn { return &ackedTxn{k.KV.Txn(ctx), k} }

type ackedTxn struct {
	clientv3.Txn
	kv *ackedKV
}

func (t *ackedTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.Txn = t.Txn.If(cs...); return t }
func (t *ackedTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(ops...); return t }
func (t *ackedTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(ops...); return t }

func (t *ackedTxn) Commit() (*clientv3.TxnResponse, error) {
	if err := t.kv.failure.get(); err != nil {
		return nil, err
	}
	resp, err := t.Txn.Commit()
	if err == nil {
		t.kv.note(resp.Header.Revision)
	}
	return resp, err
}

func revision(ctx context.Context, kv clientv3.KV) (int64, error) {
	resp, err := kv.Get(ctx, "health", clientv3.WithKeysOnly())
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}
