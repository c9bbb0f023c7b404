package store

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Backend is the seam to etcd: what clientv3 offers, be it over a network or
// embedded in the process (package store/etcd has both).
type Backend interface {
	clientv3.KV
	clientv3.Watcher
	clientv3.Lease

	// Revision returns a revision at least as great as that of every write
	// acknowledged, to anyone, before the call.
	Revision(ctx context.Context) (int64, error)
}

// Follower is a Backend that has a shorter way than Watch to follow all keys
// (an embedded etcd): it calls do with the changes after a revision, in
// order and those of one revision together, until ctx ends or the history is
// lost (rpctypes.ErrCompacted).
type Follower interface {
	Follow(ctx context.Context, after int64, do func([]*clientv3.Event)) error
}

// Swapper is a Backend that has a shorter way than Txn for the write that all
// writes of objects are (an embedded etcd): value is stored under key, with a
// lease or none (0), if the key's revision still is the given one (0: absent),
// which done says. at is the write's revision, or one at which the key had
// another revision. value is only read, during the call. also must hold, too.
type Swapper interface {
	Swap(ctx context.Context, key string, revision int64, value []byte, lease clientv3.LeaseID, also ...clientv3.Cmp) (at int64, done bool, err error)
}

// swap does what Swapper describes with any Backend.
func swap(ctx context.Context, b Backend, key string, revision int64, value []byte, lease clientv3.LeaseID, also ...clientv3.Cmp) (at int64, done bool, err error) {
	if s, ok := b.(Swapper); ok {
		return s.Swap(ctx, key, revision, value, lease, also...)
	}
	resp, err := b.Txn(ctx).
		If(append(also, clientv3.Compare(clientv3.ModRevision(key), "=", revision))...).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease))).
		Commit()
	if err != nil {
		return 0, false, err
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// Transformer turns an object's encoding into what lies in etcd and back, such
// as by encrypting it. key is the full etcd key, which authenticates the
// value's place. It is safe for concurrent use.
type Transformer interface {
	ToStorage(ctx context.Context, plain []byte, key string) ([]byte, error)
	// FromStorage also says whether the value should be written anew even if
	// nothing else changes (an old key, say).
	FromStorage(ctx context.Context, stored []byte, key string) (plain []byte, stale bool, err error)
}
