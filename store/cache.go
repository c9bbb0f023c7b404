package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/internal/share"
)

// item is an entry in key order.
type item struct {
	key   string
	entry *Entry
}

type tree = btree.BTreeG[item]

func newTree() *tree {
	return btree.NewG(32, func(a, b item) bool { return a.key < b.key })
}

// cache holds the entries of one kind and their recent history. Only the feed
// changes it.
//
// Locks, outermost first: cache.mu, then pending.mu, then write.mu.
type cache struct {
	d       *direct
	feed    *feed
	pending pending

	mu     sync.RWMutex
	loaded bool
	closed bool
	ready  chan struct{} // closed while loaded
	tree   *tree
	// frozen is a copy of tree that lists walk without a lock; nil when tree
	// has changed since it was made. Making one costs next to nothing.
	frozen *tree
	// rev is the revision of the newest change in tree (of the load, first).
	rev      int64
	ring     ring
	watchers watchers
	// early are changes that came while the first state was being read.
	early []*mvccpb.KeyValue
	gone  []bool // early[i] was a deletion
}

func newCache(s *Store, d *direct) *cache {
	return &cache{d: d, feed: s.feed, ready: make(chan struct{}), ring: ring{limit: s.cfg.History}}
}

// peek returns what is at hand; ok is false when nothing is yet.
func (c *cache) peek(key string) (e *Entry, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.loaded {
		return nil, false
	}
	it, _ := c.tree.Get(item{key: key})
	return it.entry, true
}

// newest returns the entry as of a consistent read that is at least as new as
// the given revision, or an error when the cache cannot say.
func (c *cache) newest(ctx context.Context, key string, revision int64) (*Entry, error) {
	if err := c.sync(ctx, revision); err != nil {
		return nil, err
	}
	e, ok := c.peek(key)
	if !ok {
		return nil, errNotLoaded
	}
	return e, nil
}

// sync waits until the cache has seen all that was acknowledged before the
// call, and the given revision.
func (c *cache) sync(ctx context.Context, revision int64) error {
	now, err := c.feed.s.cfg.Backend.Revision(ctx)
	if err != nil {
		return err
	}
	return c.feed.wait(ctx, max(now, revision))
}

func (c *cache) expect(w *write) {
	c.mu.RLock()
	loaded := c.loaded
	c.mu.RUnlock()
	if loaded {
		c.pending.add(w)
	}
}

func (c *cache) unexpect(w *write) { c.pending.remove(w) }

// settled is called when w has been acknowledged at a revision.
func (c *cache) settled(w *write, revision int64) {
	if c.feed.revision() >= revision {
		c.pending.remove(w)
	}
}

// view is the state at one moment.
type view struct {
	tree *tree
	rev  int64
	next int64 // number of the first change that is not in tree
}

func (c *cache) view() (view, bool) {
	c.mu.RLock()
	if c.loaded && c.frozen != nil {
		v := c.viewLocked()
		c.mu.RUnlock()
		return v, true
	}
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return view{}, false
	}
	return c.freezeLocked(), true
}

func (c *cache) freezeLocked() view {
	if c.frozen == nil {
		c.frozen = c.tree.Clone()
	}
	return c.viewLocked()
}

func (c *cache) viewLocked() view {
	return view{c.frozen, c.revLocked(), c.ring.next()}
}

// revLocked is the revision that the cache's state is at: all of etcd's
// changes up to it are in, and none after it.
func (c *cache) revLocked() int64 { return max(c.rev, c.feed.revision()) }

// past returns the state at an earlier revision, made from the present one by
// undoing the changes since. ok is false when the history does not reach back
// that far or not forward to it.
func (c *cache) past(revision int64) (*tree, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded || revision < c.ring.floor || revision > c.revLocked() {
		return nil, false
	}
	from := c.ring.after(revision)
	c.freezeLocked()
	if from == c.ring.next() {
		return c.frozen, true
	}
	t := c.frozen.Clone()
	for n := c.ring.next() - 1; n >= from; n-- {
		ch := c.ring.get(n)
		if ch.prev == nil {
			t.Delete(item{key: ch.entry.Key})
		} else {
			t.ReplaceOrInsert(item{ch.prev.Key, ch.prev})
		}
	}
	return t, true
}

// install makes entries, the whole state at a revision, the cache's own and
// begins to serve. The error is that of a later change which cannot be
// decrypted; nothing is served then.
func (c *cache) install(ctx context.Context, entries []*Entry, revision int64) error {
	t := newTree()
	for _, e := range entries {
		t.ReplaceOrInsert(item{e.Key, e})
		c.feed.s.mutations.publish(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.tree, c.frozen, c.rev = t, nil, revision
	c.ring.reset(revision)
	early, gone := c.early, c.gone
	c.early, c.gone = nil, nil
	c.loaded = true
	for i, kv := range early {
		if kv.ModRevision > revision {
			in := c.read(ctx, kv, gone[i], nil)
			if in.locked != nil {
				c.loaded = false
				return in.locked
			}
			c.applyLocked(in)
		}
	}
	close(c.ready)
	c.d.took.initialized()
	return nil
}

// unload ends all watches and forgets the state, which is to be read anew.
func (c *cache) unload(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded {
		c.ready = make(chan struct{})
	}
	c.loaded, c.tree, c.frozen = false, nil, nil
	c.early, c.gone = nil, nil
	c.pending.clear()
	c.watchers.failAll(err)
}

func (c *cache) close() {
	c.unload(nil)
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
}

// incoming is an event of etcd's, decoded.
type incoming struct {
	key   string
	rev   int64
	entry *Entry // nil: deleted
	bad   bool   // not decodable
	// locked: not to be decrypted, now. Unlike what is broken it cannot be
	// left out: to its readers all that is encrypted would be deleted.
	locked error
}

// alike returns an entry that one under key is probably much like: the one
// that is there, or the one before it in the order of keys, if their names
// differ in what follows the last dash, as those of siblings do. nil is none.
func (c *cache) alike(key string) *Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.loaded {
		return nil
	}
	var found *Entry
	dash := strings.LastIndexByte(key, '-')
	c.tree.DescendLessOrEqual(item{key: key}, func(it item) bool {
		if it.key == key || dash >= 0 && strings.HasPrefix(it.key, key[:dash+1]) {
			found = it.entry
		}
		return false
	})
	return found
}

// read decodes an event, unless the object was written here. What is decoded
// shares memory with the object of like, which may be nil.
func (c *cache) read(ctx context.Context, kv *mvccpb.KeyValue, gone bool, like *Entry) incoming {
	full := string(kv.Key)
	in := incoming{key: strings.TrimPrefix(full, c.d.root), rev: kv.ModRevision}
	if gone {
		c.pending.mu.Lock()
		c.pending.drop(in.key, in.rev)
		c.pending.mu.Unlock()
		return in
	}
	if in.entry = c.pending.claim(in.key, kv.Value, kv.ModRevision); in.entry != nil {
		return in
	}
	e, err := c.d.decode(ctx, full, kv.Value, kv.ModRevision)
	var locked *lockedError
	switch {
	case errors.As(err, &locked):
		in.locked = err
	case err != nil:
		c.feed.s.log.Error("an object in etcd cannot be read; it is left out of lists and watches", "key", full, "err", err)
		in.bad = true
		c.d.took.undecodable()
	}
	in.entry = e
	if e != nil && like != nil {
		share.With(e.Object, like.Object)
	}
	return in
}

// apply takes in the events of one revision.
func (c *cache) apply(ctx context.Context, events []event) {
	c.mu.RLock()
	loaded, closed := c.loaded, c.closed
	c.mu.RUnlock()
	if closed {
		return
	}
	if !loaded {
		c.mu.Lock()
		// install runs in another goroutine: look again.
		if !c.loaded {
			for _, ev := range events {
				c.early = append(c.early, ev.Kv)
				c.gone = append(c.gone, ev.Type == mvccpb.DELETE)
			}
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
	var one [1]incoming
	in := one[:0]
	for _, ev := range events {
		i := c.read(ctx, ev.Kv, ev.Type == mvccpb.DELETE, c.alike(strings.TrimPrefix(string(ev.Kv.Key), c.d.root)))
		if i.locked != nil {
			c.lock(i.locked)
			return
		}
		in = append(in, i)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return
	}
	for _, i := range in {
		c.applyLocked(i)
	}
}

func (c *cache) applyLocked(in incoming) {
	old, had := c.tree.Get(item{key: in.key})
	if had && old.entry.Revision >= in.rev || in.rev <= c.ring.floor && !had {
		return // in the first state already
	}
	ch := &change{rev: in.rev, entry: in.entry, prev: old.entry, when: time.Now()}
	switch {
	case in.entry != nil:
		c.tree.ReplaceOrInsert(item{in.key, in.entry})
		c.feed.s.mutations.publish(in.entry)
	case had:
		c.tree.Delete(item{key: in.key})
		ch.entry, ch.gone = old.entry.at(in.rev), true
	default:
		return
	}
	c.frozen = nil
	c.rev = in.rev
	number := c.ring.next()
	c.ring.add(ch)
	c.watchers.offer(c, ch, number)
}

// lock stops serving from the cache, and reads the state anew until all of it
// can be decrypted; in the meantime etcd is read, where the error shows.
func (c *cache) lock(err error) {
	s := c.feed.s
	s.log.Error("an object in etcd cannot be decrypted; its kind is read from etcd until it can", "resource", c.d.gr, "err", err)
	c.unload(errExpired())
	s.wg.Go(func() { c.feed.loadOne(s.ctx, c) })
}

// skip forgets the changes that the next reading of the state will show, and
// says whether there is to be one.
func (c *cache) skip(revision int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.early); n > 0 && c.early[n-1].ModRevision <= revision {
		c.early, c.gone = nil, nil
	}
	return !c.closed
}

// errExpired ends watches whose history is lost.
func errExpired() error { return apierrors.NewResourceExpired(textWatchExpired) }
