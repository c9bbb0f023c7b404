package store

import (
	"context"
	"errors"
	"strings"
)

// cached is one kind read from its cache and written to etcd.
type cached struct {
	*direct
	cache *cache
}

// Get answers from the cache once that is as new as is asked for, which a
// consistent read finds out from etcd.
func (c *cached) Get(ctx context.Context, key, resourceVersion string) (*Entry, error) {
	if _, ok := c.cache.peek(""); !ok {
		return c.direct.Get(ctx, key, resourceVersion)
	}
	if resourceVersion == "" {
		e, err := c.cache.newest(ctx, key, 0)
		if err != nil {
			return c.direct.Get(ctx, key, "") // the cache is behind: etcd knows
		}
		return c.found(key, e)
	}
	rev, err := parseRevision(resourceVersion)
	if err != nil {
		return nil, err
	}
	if err := c.cache.feed.wait(ctx, rev); err != nil {
		return nil, asStatus(err, c.gr, "get")
	}
	e, ok := c.cache.peek(key)
	if !ok {
		return c.direct.Get(ctx, key, resourceVersion)
	}
	return c.found(key, e)
}

func (c *cached) found(key string, e *Entry) (*Entry, error) {
	if e == nil {
		return nil, c.notFound(key)
	}
	return e, nil
}

// List answers from the cache, from its history when an earlier revision is
// asked for, and from etcd when the history does not reach back that far.
func (c *cached) List(ctx context.Context, prefix string, opts ListOptions) (*List, error) {
	plan, err := planList(opts)
	if err != nil {
		return nil, err
	}
	if _, ok := c.cache.peek(""); !ok {
		return c.direct.List(ctx, prefix, opts)
	}
	var t *tree
	out := &List{}
	switch {
	case plan.at > 0:
		if err := c.cache.feed.wait(ctx, plan.at); err != nil {
			return nil, asStatus(err, c.gr, "list")
		}
		old, ok := c.cache.past(plan.at)
		if !ok || plan.at < c.s.compacted.Load() {
			// Our history may reach further back than etcd's, but not every
			// server's does: which of them is asked must not matter.
			return c.direct.List(ctx, prefix, opts)
		}
		t, out.Revision = old, plan.at
		if opts.ResourceVersion == "0" {
			plan.limit = 0 // as upstream: what is left at hand comes whole
		}
	default:
		if plan.atLeast < 0 {
			if c.cache.sync(ctx, 0) != nil {
				return c.direct.List(ctx, prefix, opts)
			}
		} else if err := c.cache.feed.wait(ctx, plan.atLeast); err != nil {
			return nil, asStatus(err, c.gr, "list")
		}
		v, ok := c.cache.view()
		if !ok {
			return c.direct.List(ctx, prefix, opts)
		}
		t, out.Revision = v.tree, v.rev
	}
	return out, c.walk(out, t, prefix, plan, opts.Predicate)
}

// walk fills out from a tree.
func (c *cached) walk(out *List, t *tree, prefix string, plan listPlan, p Predicate) error {
	pred := c.predicate(p)
	all := pred.Empty()
	if all && prefix == "" && plan.start == "" && plan.limit == 0 {
		out.Entries = make([]*Entry, 0, t.Len())
	}
	full, left := false, int64(0)
	read := 0
	t.AscendGreaterOrEqual(item{key: prefix + plan.start}, func(it item) bool {
		if !strings.HasPrefix(it.key, prefix) {
			return false
		}
		read++
		if full { // count what is left, if anyone is told
			left++
			return all
		}
		if all || pred.Matches(it.entry.Object) {
			out.Entries = append(out.Entries, it.entry)
			full = plan.limit > 0 && int64(len(out.Entries)) == plan.limit
		}
		return true
	})
	c.took.listedCached(read, len(out.Entries))
	if !full {
		return nil
	}
	return finishPage(out, prefix, left, all)
}

// Count is what the cache holds.
func (c *cached) Count() int {
	c.cache.mu.RLock()
	if c.cache.loaded {
		defer c.cache.mu.RUnlock()
		return c.cache.tree.Len()
	}
	c.cache.mu.RUnlock()
	return c.direct.Count()
}

// Ready waits for the cache's first state.
func (c *cached) Ready(ctx context.Context) error {
	c.cache.mu.RLock()
	ready := c.cache.ready
	c.cache.mu.RUnlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return asStatus(ctx.Err(), c.gr, "list")
	case <-c.s.ctx.Done():
		return asStatus(c.s.ctx.Err(), c.gr, "list")
	}
}

// Watch opens a watch on the cache. A revision whose history is no longer at
// hand, and one that is to be the initial state's but is not reached, are
// answered with an Error event in the stream, as upstream does.
func (c *cached) Watch(ctx context.Context, prefix string, opts WatchOptions) (Watcher, error) {
	from, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := c.Ready(ctx); err != nil {
		return nil, err
	}
	begin := from == 0
	if opts.SendInitialEvents != nil {
		begin = *opts.SendInitialEvents
	}
	switch {
	case opts.ResourceVersion == "":
		if err := c.cache.sync(ctx, 0); err != nil {
			return nil, asStatus(err, c.gr, "watch")
		}
	case begin && from > 0:
		if err := c.cache.feed.wait(ctx, from); errors.Is(err, context.DeadlineExceeded) {
			return ended(tooLarge(from, c.cache.feed.seen.Load())), nil
		} else if err != nil {
			return ended(asStatus(err, c.gr, "watch")), nil
		}
	}
	w := &watcher{
		c: c.cache, ch: make(chan Event, buffer), done: make(chan struct{}),
		prefix: prefix, pred: c.predicate(opts.Predicate), own: opts.Predicate.Attrs == nil,
		all: opts.Predicate.Empty(), marks: opts.Bookmarks,
		endMark: opts.Bookmarks && opts.SendInitialEvents != nil && *opts.SendInitialEvents,
	}
	c.cache.open(ctx, w, from, begin)
	return w, nil
}

// open starts a watcher with the present state, or with the changes after a
// revision (0: from now on).
func (c *cache) open(ctx context.Context, w *watcher, from int64, begin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded { // lost again since we looked
		w.err = errExpired()
		w.stopped = true
		w.lastWord()
		return
	}
	v := c.freezeLocked()
	switch {
	case begin:
		w.next = v.next
		w.from = v.rev
	case from == 0:
		w.next, w.from, w.live = v.next, v.rev, true
	case from < c.ring.floor:
		w.err = tooOld(from, c.ring.floor)
		w.stopped = true
		w.lastWord()
		return
	default:
		w.from, w.next = from, c.ring.after(from)
		w.live = w.next == v.next
	}
	w.sent.Store(w.from)
	c.watchers.add(w)
	if w.marks {
		c.feed.s.marks.add(w)
		w.atDeadline(ctx)
	}
	w.unhook = context.AfterFunc(ctx, w.Stop)
	if !w.live {
		var state *tree
		if begin {
			state = v.tree
		}
		go w.catchUp(state, v.rev)
	}
}

var _ Interface = (*cached)(nil)
