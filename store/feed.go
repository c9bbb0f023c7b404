package store

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var errNotLoaded = errors.New("the cache is not ready")

type event = *clientv3.Event

// feed brings etcd's changes to the caches of all kinds: one read of the
// state, then one watch. The watch is on the whole key space, so every
// revision has an event and the feed knows without asking when it has caught
// up with one.
type feed struct {
	s *Store
	// seen: every change up to it is in the caches.
	seen atomic.Int64

	mu     sync.RWMutex
	kinds  map[string]*cache // by prefix, without slashes at the ends
	loaded bool              // the first state has been read

	waitMu  sync.Mutex
	waiters []waiter
}

type waiter struct {
	rev  int64
	done chan struct{}
}

func newFeed(s *Store) *feed { return &feed{s: s, kinds: map[string]*cache{}} }

func (f *feed) revision() int64 { return f.seen.Load() }

// patience is how long a reader waits for a revision, as upstream.
const patience = 3 * time.Second

// wait returns nil once every change up to rev is in the caches.
func (f *feed) wait(ctx context.Context, rev int64) error {
	if f.seen.Load() >= rev {
		return nil
	}
	w := waiter{rev, make(chan struct{})}
	f.waitMu.Lock()
	f.waiters = append(f.waiters, w)
	f.waitMu.Unlock()
	defer f.leave(w)
	if f.seen.Load() >= rev { // it came before we stood in line
		return nil
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-w.done:
		return nil
	case <-timeout.C:
		return tooLarge(rev, f.seen.Load())
	case <-ctx.Done():
		return ctx.Err()
	case <-f.s.ctx.Done():
		return errNotLoaded
	}
}

func (f *feed) leave(w waiter) {
	f.waitMu.Lock()
	defer f.waitMu.Unlock()
	for i := range f.waiters {
		if f.waiters[i].done == w.done {
			last := len(f.waiters) - 1
			f.waiters[i] = f.waiters[last]
			f.waiters[last] = waiter{}
			f.waiters = f.waiters[:last]
			return
		}
	}
}

func (f *feed) advance(rev int64) {
	f.seen.Store(rev)
	f.waitMu.Lock()
	defer f.waitMu.Unlock()
	kept := f.waiters[:0]
	for _, w := range f.waiters {
		if w.rev <= rev {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(f.waiters[len(kept):])
	f.waiters = kept
}

// add begins to fill a cache.
func (f *feed) add(c *cache) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kinds[c.d.kind.Prefix] = c
	if f.loaded {
		f.s.wg.Go(func() { f.loadOne(f.s.ctx, c) })
	}
}

func (f *feed) remove(c *cache) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kinds[c.d.kind.Prefix] == c {
		delete(f.kinds, c.d.kind.Prefix)
	}
}

// find returns the cache that a key belongs to, nil if none does.
func (f *feed) find(key []byte) *cache {
	rest, ok := bytes.CutPrefix(key, []byte(f.s.root))
	if !ok {
		return nil
	}
	// A prefix has one to three parts; none is the beginning of another.
	for end := 0; ; end++ {
		n := bytes.IndexByte(rest[end:], '/')
		if n < 0 {
			return nil
		}
		end += n
		if c, ok := f.kinds[string(rest[:end])]; ok {
			return c
		}
	}
}

// run keeps the caches filled until ctx ends.
func (f *feed) run(ctx context.Context) {
	pause := 10 * time.Millisecond
	for ctx.Err() == nil {
		rev, err := f.load(ctx)
		if err == nil {
			pause = 10 * time.Millisecond
			err = f.follow(ctx, rev)
			f.unload()
		}
		if ctx.Err() != nil {
			return
		}
		f.s.log.Warn("the watch cache starts over", "err", err)
		sleep(ctx, pause)
		pause = min(2*pause, 5*time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// load reads the state of all kinds known and returns its revision.
func (f *feed) load(ctx context.Context) (int64, error) {
	f.mu.Lock()
	known := make(map[*cache][]*Entry, len(f.kinds))
	locked := map[*cache]error{}
	for _, c := range f.kinds {
		known[c] = nil
	}
	f.mu.Unlock()
	rev, err := f.scan(ctx, f.s.root, func(kv *mvccpb.KeyValue) {
		f.mu.RLock()
		c := f.find(kv.Key)
		f.mu.RUnlock()
		if c == nil {
			return
		}
		if _, ok := known[c]; !ok {
			return
		}
		in := c.read(ctx, kv, false, last(known[c]))
		if in.locked != nil && locked[c] == nil {
			locked[c] = in.locked
		}
		if in.entry != nil {
			known[c] = append(known[c], in.entry)
		}
	})
	if err != nil {
		return 0, err
	}
	f.seen.Store(rev)
	for c, entries := range known {
		if locked[c] == nil {
			locked[c] = c.install(ctx, entries, rev)
		}
		if locked[c] != nil {
			c.lock(locked[c])
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded = true
	for _, c := range f.kinds {
		if _, ok := known[c]; !ok { // came in the meantime
			f.s.wg.Go(func() { f.loadOne(ctx, c) })
		}
	}
	f.advance(rev)
	return rev, nil
}

// loadOne reads the state of one kind while the feed goes on; the cache
// keeps what the feed brings until then.
func (f *feed) loadOne(ctx context.Context, c *cache) {
	for pause := 10 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		var entries []*Entry
		var locked error
		rev, err := f.scan(ctx, c.d.root, func(kv *mvccpb.KeyValue) {
			in := c.read(ctx, kv, false, last(entries))
			if in.locked != nil {
				locked = in.locked
			}
			if in.entry != nil {
				entries = append(entries, in.entry)
			}
		})
		if err == nil {
			if err = locked; err == nil {
				err = c.install(ctx, entries, rev)
			}
			if err == nil {
				return
			}
			if !c.skip(rev) {
				return
			}
		}
		f.s.log.Warn("read a kind into the watch cache", "prefix", c.d.kind.Prefix, "err", err)
		sleep(ctx, pause)
	}
}

// last is the newest of some entries, nil if there is none.
func last(entries []*Entry) *Entry {
	if len(entries) == 0 {
		return nil
	}
	return entries[len(entries)-1]
}

// scan calls do with every key under prefix, all at one revision, which it
// returns.
func (f *feed) scan(ctx context.Context, prefix string, do func(*mvccpb.KeyValue)) (int64, error) {
	var (
		rev  int64
		next = prefix
		end  = clientv3.GetPrefixRangeEnd(prefix)
	)
	for {
		resp, err := f.s.cfg.Backend.Get(ctx, next, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(pageSize))
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			do(kv)
		}
		if !resp.More {
			return rev, nil
		}
		next = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (f *feed) unload() {
	f.mu.Lock()
	f.loaded = false
	kinds := make([]*cache, 0, len(f.kinds))
	for _, c := range f.kinds {
		kinds = append(kinds, c)
	}
	f.mu.Unlock()
	for _, c := range kinds {
		c.unload(errExpired())
	}
}

// follow watches from the revision on. It resumes a broken watch by itself
// and returns only when etcd no longer has the history, or ctx ends.
func (f *feed) follow(ctx context.Context, rev int64) error {
	for {
		err := f.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, rpctypes.ErrCompacted):
			return err
		}
		f.s.log.Warn("etcd's watch broke; resuming", "revision", f.seen.Load(), "err", err)
		sleep(ctx, 100*time.Millisecond)
	}
}

func (f *feed) watch(ctx context.Context) error {
	if b, ok := f.s.cfg.Backend.(Follower); ok {
		return b.Follow(ctx, f.seen.Load(), func(events []event) { f.take(ctx, events) })
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range f.s.cfg.Backend.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(f.seen.Load()+1)) {
		if err := resp.Err(); err != nil {
			return err
		}
		f.take(ctx, resp.Events)
	}
	return errors.New("etcd closed the watch")
}

// take hands the events to their caches, those of one kind and revision
// together.
func (f *feed) take(ctx context.Context, events []event) {
	for i := 0; i < len(events); {
		f.mu.RLock()
		c := f.find(events[i].Kv.Key)
		j := i + 1
		for j < len(events) && events[j].Kv.ModRevision == events[i].Kv.ModRevision && f.find(events[j].Kv.Key) == c {
			j++
		}
		f.mu.RUnlock()
		if c != nil {
			c.d.took.received(j - i)
			c.apply(ctx, events[i:j])
		}
		i = j
	}
	if n := len(events); n > 0 {
		f.advance(events[n-1].Kv.ModRevision)
	}
}
