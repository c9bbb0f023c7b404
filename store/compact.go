package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// compactKey is where upstream's API servers agree on who compacts: its
// version counts the rounds, its value is the revision of the last one.
const compactKey = "compact_rev_key"

// compact drops etcd's history that is older than one to two intervals.
// Several servers, upstream's among them, share the work: whoever bumps the
// key first compacts to where the history stood in the round before.
func (s *Store) compact(ctx context.Context, every time.Duration) {
	timer := time.NewTicker(every)
	defer timer.Stop()
	var c compactor
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := c.round(ctx, s.cfg.Backend); err != nil && ctx.Err() == nil {
			s.log.Warn("compact etcd's history", "err", err)
		}
		s.compacted.Store(c.compacted)
	}
}

type compactor struct {
	rounds   int64 // the key's version as last seen
	revision int64 // the store's revision as last seen
	// compacted is the revision before which, as far as is known here, the
	// history has been dropped.
	compacted int64
}

func (c *compactor) round(ctx context.Context, etcd Backend) error {
	now, err := etcd.Revision(ctx)
	if err != nil {
		return err
	}
	if now == c.revision {
		return nil // nothing has changed, our own mark included
	}
	resp, err := etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", c.rounds)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(c.revision, 10))).
		Else(clientv3.OpGet(compactKey)).
		Commit()
	if err != nil {
		return err
	}
	before := c.revision
	c.revision = resp.Header.Revision
	if !resp.Succeeded {
		c.rounds = 0
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			c.rounds = kvs[0].Version
			if rev, err := strconv.ParseInt(string(kvs[0].Value), 10, 64); err == nil {
				c.compacted = max(c.compacted, rev)
			}
		}
		return nil
	}
	c.rounds++
	if before == 0 {
		return nil
	}
	if _, err := etcd.Compact(ctx, before); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return err
	}
	c.compacted = before
	return nil
}
