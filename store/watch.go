package store

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// buffer is how many events a watcher may lag behind before it has to read
// them from the ring.
const buffer = 32

// watcher is one open watch on a cache.
//
// It is live or catching up. A live one gets its events from the feed
// directly and costs no goroutine. When its buffer is full (or it begins in
// the past) it is catching up: a goroutine of its own sends it what the ring
// holds, and makes it live again at the end. A watcher that is slower than
// the ring is long is told that its revision has expired.
type watcher struct {
	c      *cache
	ch     chan Event
	done   chan struct{}
	prefix string
	pred   Predicate
	own    bool // pred looks at the kind's own attributes
	all    bool // pred selects everything
	from   int64
	marks  bool
	// endMark: a bookmark is to end the initial events.
	endMark bool
	unhook  func() bool
	timer   *time.Timer
	sent    atomic.Int64 // revision of the last thing sent

	// Under cache.mu:
	live    bool
	stopped bool
	err     error // to be sent before the end
	next    int64 // number of the next change to send when not live
	at      *bucket
	pos     int
}

func (w *watcher) Events() <-chan Event { return w.ch }

// endedWatch has said why it could not begin.
type endedWatch chan Event

func ended(err error) endedWatch {
	w := make(endedWatch, 1)
	w <- Event{Type: Error, Err: err}
	close(w)
	return w
}

func (w endedWatch) Events() <-chan Event { return w }
func (w endedWatch) Stop()                {}

func (w *watcher) Stop() {
	w.c.mu.Lock()
	w.endLocked(nil)
	w.c.mu.Unlock()
}

// endLocked ends the watch, with a last event if err is given.
func (w *watcher) endLocked(err error) {
	if w.stopped {
		return
	}
	w.stopped, w.err = true, err
	w.c.watchers.remove(w)
	w.c.feed.s.marks.remove(w)
	close(w.done)
	if w.unhook != nil {
		w.unhook()
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.live {
		w.lastWord()
	} // else its goroutine closes the channel
}

// lastWord says why the watch ends, if there is room to say it, and closes it.
func (w *watcher) lastWord() {
	if w.err != nil {
		select {
		case w.ch <- Event{Type: Error, Err: w.err}:
		default:
		}
	}
	close(w.ch)
}

// event returns what a change means to the watcher; ok is false when nothing.
func (w *watcher) event(ch *change) (ev Event, ok bool) {
	if ch.rev <= w.from || !strings.HasPrefix(ch.entry.Key, w.prefix) {
		return ev, false
	}
	is, was := !ch.gone, ch.prev != nil
	if !w.all {
		if w.own {
			newL, newF, oldL, oldF := ch.attributes(w.c.d)
			is = is && w.pred.selects(newL, newF)
			was = was && w.pred.selects(oldL, oldF)
		} else {
			is = is && w.pred.Matches(ch.entry.Object)
			was = was && w.pred.Matches(ch.prev.Object)
		}
	}
	ev = Event{Entry: ch.entry, Before: ch.prev, Revision: ch.rev}
	switch {
	case is && was:
		ev.Type = Modified
	case is:
		ev.Type = Added
	case was:
		ev.Type = Deleted
		if !ch.gone {
			ev.Entry = ch.before()
		}
	default:
		return ev, false
	}
	return ev, true
}

// attributes are what selectors see of the new and the old object, computed
// once for all watchers.
func (c *change) attributes(d *direct) (newL labels.Set, newF fields.Set, oldL labels.Set, oldF fields.Set) {
	a := &c.attrs
	a.once.Do(func() {
		if !c.gone {
			a.newL, a.newF = d.attrs(c.entry.Object)
		}
		if c.prev != nil {
			a.oldL, a.oldF = d.attrs(c.prev.Object)
		}
	})
	return a.newL, a.newF, a.oldL, a.oldF
}

// offer sends a live watcher a change, under the cache's lock.
func (w *watcher) offer(ch *change, number int64) {
	if !w.live {
		return
	}
	ev, ok := w.event(ch)
	if !ok {
		return
	}
	select {
	case w.ch <- ev:
		w.sent.Store(ev.Revision)
	default:
		w.live, w.next = false, number
		go w.catchUp(nil, 0)
	}
}

// catchUp sends first the given state (of the given revision), then the
// changes since, and leaves the watcher live or ended.
func (w *watcher) catchUp(initial *tree, at int64) {
	if initial != nil && !w.sendState(initial, at) {
		w.finish()
		return
	}
	batch := make([]*change, 0, 64)
	for {
		var err error
		batch, err = w.more(batch[:0])
		if err != nil {
			w.send(Event{Type: Error, Err: err})
			w.finish()
			return
		}
		if len(batch) == 0 {
			return
		}
		for _, ch := range batch {
			if ev, ok := w.event(ch); ok && !w.send(ev) {
				w.finish()
				return
			}
		}
	}
}

// more takes the next changes from the ring. There are none when the watcher
// has caught up, and is live from here on, or has ended.
func (w *watcher) more(batch []*change) ([]*change, error) {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.stopped {
		w.lastWord()
		return nil, nil
	}
	r := &c.ring
	if w.next < r.first {
		return nil, tooOld(max(w.sent.Load(), w.from), r.floor)
	}
	if w.next == r.next() {
		w.live = true
		return nil, nil
	}
	for w.next < r.next() && len(batch) < cap(batch) {
		batch = append(batch, r.get(w.next))
		w.next++
	}
	return batch, nil
}

// finish ends a watcher that is not live, from its own goroutine.
func (w *watcher) finish() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.endLocked(nil)
	w.lastWord()
}

// send waits for room; false means that the watch has ended.
func (w *watcher) send(ev Event) bool {
	select {
	case w.ch <- ev:
		w.sent.Store(ev.Revision)
		return true
	case <-w.done:
		return false
	}
}

func (w *watcher) sendState(state *tree, at int64) bool {
	ok := true
	state.AscendGreaterOrEqual(item{key: w.prefix}, func(it item) bool {
		if !strings.HasPrefix(it.key, w.prefix) {
			return false
		}
		if w.pred.Matches(it.entry.Object) {
			ok = w.send(Event{Type: Added, Entry: it.entry, Revision: it.entry.Revision})
		}
		return ok
	})
	w.sent.Store(at)
	if ok && w.endMark {
		ok = w.send(Event{Type: Bookmark, Revision: at, InitialEventsEnd: true})
	}
	return ok
}

// bookmark tells a live watcher how far it has come.
func (w *watcher) bookmark() {
	w.c.mu.RLock()
	defer w.c.mu.RUnlock()
	if !w.live || w.stopped || !w.c.loaded {
		return
	}
	rev := max(w.c.revLocked(), w.from)
	if w.sent.Swap(rev) == rev {
		return // it knows
	}
	select {
	case w.ch <- Event{Type: Bookmark, Revision: rev}:
	default:
	}
}

// atDeadline arranges a bookmark shortly before the watch's end, so that the
// client resumes from a fresh revision.
func (w *watcher) atDeadline(ctx context.Context) {
	if end, ok := ctx.Deadline(); ok {
		if d := time.Until(end) - 2*time.Second; d > 0 {
			w.timer = time.AfterFunc(d, w.bookmark)
		}
	}
}
