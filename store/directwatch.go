package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// directWatcher is a watch on etcd itself. It costs a goroutine and an etcd
// watch, so it serves tests and as the yardstick for the cache's.
type directWatcher struct {
	d      *direct
	ch     chan Event
	ctx    context.Context
	cancel context.CancelFunc
	prefix string
	pred   Predicate
}

func (w *directWatcher) Events() <-chan Event { return w.ch }
func (w *directWatcher) Stop()                { w.cancel() }

// Watch opens a watch on etcd.
func (d *direct) Watch(ctx context.Context, prefix string, opts WatchOptions) (Watcher, error) {
	from, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	begin := from == 0
	if opts.SendInitialEvents != nil {
		begin = *opts.SendInitialEvents
	}
	w := &directWatcher{d: d, ch: make(chan Event, buffer), prefix: prefix, pred: d.predicate(opts.Predicate)}
	w.ctx, w.cancel = context.WithCancel(ctx)
	stop := context.AfterFunc(d.s.ctx, w.cancel)
	var initial *List
	if begin {
		o := ListOptions{Predicate: opts.Predicate}
		if from > 0 {
			o.ResourceVersion = opts.ResourceVersion
		}
		if initial, err = d.List(ctx, prefix, o); err != nil {
			w.cancel()
			if apierrors.IsTimeout(err) {
				return ended(err), nil
			}
			return nil, err
		}
		from = initial.Revision
	} else if from == 0 {
		if from, err = d.s.cfg.Backend.Revision(ctx); err != nil {
			w.cancel()
			return nil, asStatus(err, d.gr, "watch")
		}
	}
	endMark := opts.Bookmarks && begin && opts.SendInitialEvents != nil
	go func() {
		defer stop()
		defer w.cancel()
		defer close(w.ch)
		if initial != nil {
			for _, e := range initial.Entries {
				if !w.send(Event{Type: Added, Entry: e, Revision: e.Revision}) {
					return
				}
			}
			if endMark && !w.send(Event{Type: Bookmark, Revision: from, InitialEventsEnd: true}) {
				return
			}
		}
		if err := w.follow(from, opts.Bookmarks); err != nil && w.ctx.Err() == nil {
			if errors.Is(err, rpctypes.ErrCompacted) {
				err = errExpired()
			}
			w.send(Event{Type: Error, Err: asStatus(err, d.gr, "watch")})
		}
	}()
	return w, nil
}

func (w *directWatcher) send(ev Event) bool {
	select {
	case w.ch <- ev:
		return true
	case <-w.ctx.Done():
		return false
	}
}

func (w *directWatcher) follow(from int64, bookmarks bool) error {
	ctx := clientv3.WithRequireLeader(w.ctx)
	etcd := w.d.s.cfg.Backend
	events := etcd.Watch(ctx, w.d.root+w.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(from+1))
	var tick <-chan time.Time
	if bookmarks {
		t := time.NewTicker(w.d.s.cfg.BookmarkEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return errors.New("etcd closed the watch")
			}
			if err := resp.Err(); err != nil {
				return err
			}
			if resp.IsProgressNotify() {
				if bookmarks && !w.send(Event{Type: Bookmark, Revision: max(from, resp.Header.Revision)}) {
					return nil
				}
				continue
			}
			for _, ev := range resp.Events {
				if err := w.take(ev); err != nil {
					return err
				}
			}
		case <-tick:
			// The answer comes through the watch, in its order.
			if err := etcd.RequestProgress(ctx); err != nil {
				return err
			}
		case <-w.ctx.Done():
			return nil
		}
	}
}

func (w *directWatcher) take(ev *clientv3.Event) error {
	ch := &change{rev: ev.Kv.ModRevision, gone: ev.Type == mvccpb.DELETE}
	key := strings.TrimPrefix(string(ev.Kv.Key), w.d.root)
	var err error
	if ev.PrevKv != nil {
		if ch.prev, err = w.d.entry(w.ctx, ev.PrevKv); err != nil {
			return err
		}
	}
	if ch.gone {
		if ch.prev == nil {
			return nil // what it was is compacted away
		}
		ch.entry = ch.prev.at(ch.rev)
	} else if ch.entry, err = w.d.entry(w.ctx, ev.Kv); err != nil {
		return err
	}
	view := watcher{prefix: w.prefix, pred: w.pred, all: w.pred.Empty()}
	if out, ok := view.event(ch); ok && strings.HasPrefix(key, w.prefix) {
		w.send(out)
	}
	return nil
}
