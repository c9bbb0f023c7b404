package etcd

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A swap is done if the revision is the one given, is seen by Revision at once,
// and fails as a Txn of clientv3 does.
func TestSwap(t *testing.T) {
	s := start(t, t.TempDir())
	defer closed(t, s)
	ctx := t.Context()
	first, done, err := s.Swap(ctx, "a", 0, []byte("1"), 0)
	if err != nil || !done {
		t.Fatalf("of an absent key: %v, %v", done, err)
	}
	if now, _ := s.Revision(ctx); now < first {
		t.Errorf("revision %d after a write at %d", now, first)
	}
	if at, done, err := s.Swap(ctx, "a", 0, []byte("2"), 0); err != nil || done || at < first {
		t.Errorf("of a key that is there: %v at %d, %v", done, at, err)
	}
	lease, err := s.Grant(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	second, done, err := s.Swap(ctx, "a", first, []byte("3"), lease.ID)
	if err != nil || !done || second <= first {
		t.Fatalf("of the revision that is there: %v at %d, %v", done, second, err)
	}
	resp, err := s.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if kv := resp.Kvs[0]; string(kv.Value) != "3" || kv.ModRevision != second || kv.Lease != int64(lease.ID) {
		t.Errorf("stored: %v", kv)
	}
	if _, _, err := s.Swap(ctx, "b", 0, []byte(strings.Repeat("x", 2<<20)), 0); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, _, err := s.Swap(ctx, "b", 0, nil, 12345); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("an unknown lease: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := s.Swap(ended, "b", 0, nil, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
