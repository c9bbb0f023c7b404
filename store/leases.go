package store

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// An etcd lease per object would cost more than the objects. As upstream
// does, objects of the same TTL that come within a short time share one, and
// so live up to that time longer.
const (
	leaseReuse   = time.Minute
	leaseObjects = 1000
)

type leases struct {
	etcd clientv3.Lease

	mu    sync.Mutex
	byTTL map[int64]*lease
}

type lease struct {
	id      clientv3.LeaseID
	until   time.Time // it may be given out
	objects int
}

func newLeases(etcd clientv3.Lease) *leases {
	return &leases{etcd: etcd, byTTL: map[int64]*lease{}}
}

// get returns a lease that lives at least ttl seconds from now.
func (l *leases) get(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if le := l.byTTL[ttl]; le != nil && now.Before(le.until) && le.objects < leaseObjects {
		le.objects++
		return le.id, nil
	}
	// At most a twentieth longer than asked for.
	reuse := min(leaseReuse, time.Duration(ttl)*time.Second/20)
	g, err := l.etcd.Grant(ctx, ttl+int64(reuse/time.Second))
	if err != nil {
		return 0, err
	}
	l.byTTL[ttl] = &lease{id: g.ID, until: now.Add(reuse), objects: 1}
	return g.ID, nil
}
