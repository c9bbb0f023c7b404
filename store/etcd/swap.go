package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// swap is the request of one Swap with all its parts, which are many.
type swap struct {
	request  etcdserverpb.TxnRequest
	compare  etcdserverpb.Compare
	compares [1]*etcdserverpb.Compare
	revision etcdserverpb.Compare_ModRevision
	op       etcdserverpb.RequestOp
	ops      [1]*etcdserverpb.RequestOp
	put      etcdserverpb.PutRequest
	opPut    etcdserverpb.RequestOp_RequestPut
}

func newSwap(key string, revision int64, value []byte, lease clientv3.LeaseID, also []clientv3.Cmp) *etcdserverpb.TxnRequest {
	k := []byte(key)
	s := &swap{
		compare: etcdserverpb.Compare{Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL, Key: k},
		put:     etcdserverpb.PutRequest{Key: k, Value: value, Lease: int64(lease)},
	}
	s.revision.ModRevision = revision
	s.compare.TargetUnion = &s.revision
	s.compares[0] = &s.compare
	s.opPut.RequestPut = &s.put
	s.op.Request = &s.opPut
	s.ops[0] = &s.op
	s.request.Compare, s.request.Success = s.compares[:], s.ops[:]
	for i := range also {
		s.request.Compare = append(s.request.Compare, (*etcdserverpb.Compare)(&also[i]))
	}
	return &s.request
}

// Swap stores value under key, with a lease or none (0), if the key's revision
// still is the given one (0: absent) and also holds; done says whether so. at is the
// revision of the write, or the one at which etcd saw that there was another.
// It is a Txn without what clientv3 copies for it, with the same errors. value
// is only read, and only during the call. It is safe for concurrent use.
func (s *Server) Swap(ctx context.Context, key string, revision int64, value []byte, lease clientv3.LeaseID, also ...clientv3.Cmp) (at int64, done bool, err error) {
	if err := s.failure.get(); err != nil {
		return 0, false, err // as ackedKV
	}
	resp, err := s.kv.Txn(ctx, newSwap(key, revision, value, lease, also))
	if err != nil {
		return 0, false, clientv3.ContextError(ctx, err)
	}
	s.note(resp.Header.Revision)
	return resp.Header.Revision, resp.Succeeded, nil
}
