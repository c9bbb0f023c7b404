package world

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Memory is an etcd without disk, network and members: as much of one as the
// store needs, with etcd's revisions and transactions. Leases never end. It is
// safe for concurrent use.
type Memory struct {
	mu        sync.Mutex
	revision  int64
	keys      []string // sorted, those deleted included
	versions  map[string][]*mvccpb.KeyValue
	log       []*clientv3.Event // all of them, the one of revision n at n-2
	grown     chan struct{}     // closed, and made anew, at each change
	committed func(ctx context.Context, ev *clientv3.Event)
	leases    clientv3.LeaseID
}

// NewMemory returns an empty one. committed (may be nil) is called within each
// change, in the order of revisions and before anyone can read it; it must not
// call back.
func NewMemory(committed func(ctx context.Context, ev *clientv3.Event)) *Memory {
	return &Memory{revision: 1, versions: map[string][]*mvccpb.KeyValue{}, grown: make(chan struct{}), committed: committed}
}

// at is the key's value at a revision, nil where it has none.
func (m *Memory) at(key string, revision int64) *mvccpb.KeyValue {
	all := m.versions[key]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].ModRevision <= revision {
			if all[i].Version == 0 {
				return nil
			}
			return all[i]
		}
	}
	return nil
}

func (m *Memory) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: m.revision} }

func (m *Memory) get(op clientv3.Op) *clientv3.GetResponse {
	rev := op.Rev()
	if rev <= 0 {
		rev = m.revision
	}
	resp := &clientv3.GetResponse{Header: m.header()}
	key, end := string(op.KeyBytes()), string(op.RangeBytes())
	if end == "" {
		if kv := m.at(key, rev); kv != nil {
			resp.Kvs, resp.Count = []*mvccpb.KeyValue{kv}, 1
		}
		return resp
	}
	first, _ := slices.BinarySearch(m.keys, key)
	for _, k := range m.keys[first:] {
		if end != "\x00" && k >= end {
			break
		}
		kv := m.at(k, rev)
		if kv == nil {
			continue
		}
		resp.Count++
		switch {
		case op.IsCountOnly():
		case op.Limit() > 0 && int64(len(resp.Kvs)) == op.Limit():
			resp.More = true
		default:
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	return resp
}

// change writes value under key, nil for a deletion.
func (m *Memory) change(ctx context.Context, key string, value []byte, lease int64) {
	before := m.at(key, m.revision)
	if before == nil && value == nil {
		return
	}
	m.revision++
	kv := &mvccpb.KeyValue{Key: []byte(key), ModRevision: m.revision}
	ev := &clientv3.Event{Type: clientv3.EventTypeDelete, Kv: kv, PrevKv: before}
	if value != nil {
		ev.Type = clientv3.EventTypePut
		kv.Value, kv.Lease, kv.Version, kv.CreateRevision = value, lease, 1, m.revision
		if before != nil {
			kv.Version, kv.CreateRevision = before.Version+1, before.CreateRevision
		}
	}
	if i, known := slices.BinarySearch(m.keys, key); !known {
		m.keys = slices.Insert(m.keys, i, key)
	}
	m.versions[key] = append(m.versions[key], kv)
	m.log = append(m.log, ev)
	if m.committed != nil {
		m.committed(ctx, ev)
	}
	close(m.grown)
	m.grown = make(chan struct{})
}

func (m *Memory) holds(c *pb.Compare) bool {
	kv := m.at(string(c.Key), m.revision)
	if kv == nil {
		kv = &mvccpb.KeyValue{}
	}
	var have, want int64
	switch c.Target {
	case pb.Compare_MOD:
		have, want = kv.ModRevision, c.GetModRevision()
	case pb.Compare_CREATE:
		have, want = kv.CreateRevision, c.GetCreateRevision()
	case pb.Compare_VERSION:
		have, want = kv.Version, c.GetVersion()
	default:
		panic(fmt.Sprintf("comparison of %v", c.Target))
	}
	if c.Result != pb.Compare_EQUAL {
		panic(fmt.Sprintf("comparison %v", c.Result))
	}
	return have == want
}

// Do carries out one operation.
func (m *Memory) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if err := ctx.Err(); err != nil {
		return clientv3.OpResponse{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case op.IsGet():
		return m.get(op).OpResponse(), nil
	case op.IsPut():
		m.change(ctx, string(op.KeyBytes()), slices.Clone(op.ValueBytes()), 0)
		return (&clientv3.PutResponse{Header: m.header()}).OpResponse(), nil
	case op.IsDelete() && len(op.RangeBytes()) == 0:
		m.change(ctx, string(op.KeyBytes()), nil, 0)
		return (&clientv3.DeleteResponse{Header: m.header()}).OpResponse(), nil
	}
	panic("an operation that the store does not use")
}

// Get implements clientv3.KV.
func (m *Memory) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := m.Do(ctx, clientv3.OpGet(key, opts...))
	return r.Get(), err
}

// Put implements clientv3.KV.
func (m *Memory) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := m.Do(ctx, clientv3.OpPut(key, value, opts...))
	return r.Put(), err
}

// Delete implements clientv3.KV.
func (m *Memory) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := m.Do(ctx, clientv3.OpDelete(key, opts...))
	return r.Del(), err
}

// Compact implements clientv3.KV: nothing is ever forgotten.
func (m *Memory) Compact(context.Context, int64, ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	return &clientv3.CompactResponse{}, nil
}

// Txn implements clientv3.KV.
func (m *Memory) Txn(ctx context.Context) clientv3.Txn { return &txn{m: m, ctx: ctx} }

type txn struct {
	m           *Memory
	ctx         context.Context
	cmps        []clientv3.Cmp
	then, else_ []clientv3.Op
}

func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.cmps = append(t.cmps, cs...); return t }
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn { t.then = append(t.then, ops...); return t }
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn { t.else_ = append(t.else_, ops...); return t }

// Commit carries the transaction out; it makes one change at the most.
func (t *txn) Commit() (*clientv3.TxnResponse, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	ok := true
	for i := range t.cmps {
		c := pb.Compare(t.cmps[i])
		ok = ok && t.m.holds(&c)
	}
	ops := t.then
	if !ok {
		ops = t.else_
	}
	resp := &clientv3.TxnResponse{Succeeded: ok}
	for _, op := range ops {
		switch {
		case op.IsGet():
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: (*pb.RangeResponse)(t.m.get(op))}})
		case op.IsPut():
			t.m.change(t.ctx, string(op.KeyBytes()), slices.Clone(op.ValueBytes()), 0)
		case op.IsDelete():
			t.m.change(t.ctx, string(op.KeyBytes()), nil, 0)
		}
	}
	resp.Header = t.m.header()
	return resp, nil
}

// Revision implements store.Backend.
func (m *Memory) Revision(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision, nil
}

// Follow implements store.Follower.
func (m *Memory) Follow(ctx context.Context, after int64, do func([]*clientv3.Event)) error {
	for {
		m.mu.Lock()
		next, grown := m.log[max(after-1, 0):], m.grown
		after = m.revision
		m.mu.Unlock()
		if len(next) > 0 {
			do(next)
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Watch implements clientv3.Watcher, from a revision on.
func (m *Memory) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, opts...)
	end := string(op.RangeBytes())
	out := make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		_ = m.Follow(ctx, op.Rev()-1, func(all []*clientv3.Event) {
			resp := clientv3.WatchResponse{Header: *m.header()}
			for _, ev := range all {
				k := string(ev.Kv.Key)
				if k == key || end != "" && strings.Compare(k, key) > 0 && (end == "\x00" || k < end) {
					resp.Events = append(resp.Events, ev)
				}
			}
			if len(resp.Events) == 0 {
				return
			}
			select {
			case out <- resp:
			case <-ctx.Done():
			}
		})
	}()
	return out
}

// RequestProgress implements clientv3.Watcher.
func (m *Memory) RequestProgress(context.Context) error { return nil }

// Grant implements clientv3.Lease.
func (m *Memory) Grant(_ context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases++
	return &clientv3.LeaseGrantResponse{ID: m.leases, TTL: ttl}, nil
}

// Revoke implements clientv3.Lease.
func (m *Memory) Revoke(context.Context, clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	return &clientv3.LeaseRevokeResponse{}, nil
}

// TimeToLive implements clientv3.Lease.
func (m *Memory) TimeToLive(context.Context, clientv3.LeaseID, ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return &clientv3.LeaseTimeToLiveResponse{}, nil
}

// Leases implements clientv3.Lease.
func (m *Memory) Leases(context.Context) (*clientv3.LeaseLeasesResponse, error) {
	return &clientv3.LeaseLeasesResponse{}, nil
}

// KeepAlive implements clientv3.Lease: leases live anyway.
func (m *Memory) KeepAlive(context.Context, clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	return nil, nil
}

// KeepAliveOnce implements clientv3.Lease.
func (m *Memory) KeepAliveOnce(context.Context, clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	return &clientv3.LeaseKeepAliveResponse{}, nil
}

// Close implements clientv3.Watcher and clientv3.Lease.
func (m *Memory) Close() error { return nil }
