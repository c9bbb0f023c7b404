package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Follow calls do with every change after a revision, in order, until ctx
// ends or the history is lost (rpctypes.ErrCompacted). Changes of one revision
// come in one call. It is a watch of all keys without the machinery that
// clientv3 puts between a watch and its user for a network that is not there.
// What do is given is shared and read only.
func (s *Server) Follow(ctx context.Context, after int64, do func([]*clientv3.Event)) error {
	stream := s.etcd.KV().NewWatchStream()
	defer stream.Close()
	if _, err := stream.Watch(0, []byte{0}, []byte{}, after+1); err != nil {
		return err
	}
	var batch []*clientv3.Event
	for {
		select {
		case resp, ok := <-stream.Chan():
			switch {
			case !ok:
				return errors.New("etcd closed the watch")
			case resp.CompactRevision != 0:
				return rpctypes.ErrCompacted
			}
			batch = batch[:0]
			for i := range resp.Events {
				batch = append(batch, (*clientv3.Event)(&resp.Events[i]))
			}
			do(batch)
			clear(batch)
		case <-s.failure.done:
			return s.failure.get()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
