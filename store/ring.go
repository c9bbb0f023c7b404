package store

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// change is one change of a kind, shared by the ring and all watchers.
type change struct {
	rev   int64
	entry *Entry // the new state; for a deletion the last one, at rev
	prev  *Entry // the state before; nil for a new object
	gone  bool   // deleted
	when  time.Time

	last  atomic.Pointer[Entry] // prev as of rev, once needed
	attrs struct {
		once     sync.Once
		newL     labels.Set
		newF     fields.Set
		oldL     labels.Set
		oldF     fields.Set
		computed bool
	}
}

// before returns the former state as a watcher gets it for whom the object
// is gone though it is not.
func (c *change) before() *Entry {
	if e := c.last.Load(); e != nil {
		return e
	}
	c.last.CompareAndSwap(nil, c.prev.at(c.rev))
	return c.last.Load()
}

// cost is about what the change holds in memory, in stored bytes.
func (c *change) cost() int64 {
	n := int64(256)
	if c.prev != nil {
		n += int64(c.prev.size)
	}
	return n + int64(c.entry.size)
}

// ring is a kind's recent history, oldest first. Changes are numbered; a
// revision may have several (a lease that expires).
type ring struct {
	limit History
	// floor is the revision after which the ring has every change.
	floor int64

	buf   []*change // a circle
	start int       // of the oldest in buf
	n     int
	first int64 // number of the oldest
	bytes int64
}

// next is the number that the next change will get.
func (r *ring) next() int64 { return r.first + int64(r.n) }

func (r *ring) get(number int64) *change {
	return r.buf[(r.start+int(number-r.first))%len(r.buf)]
}

func (r *ring) add(c *change) {
	if r.n == len(r.buf) {
		bigger := make([]*change, max(16, 2*len(r.buf)))
		for i := range r.n {
			bigger[i] = r.buf[(r.start+i)%len(r.buf)]
		}
		r.buf, r.start = bigger, 0
	}
	r.buf[(r.start+r.n)%len(r.buf)] = c
	r.n++
	r.bytes += c.cost()
	r.trim(c.when)
}

// trim drops what is too old or too much.
func (r *ring) trim(now time.Time) {
	for r.n > r.limit.Least {
		old := r.buf[r.start]
		if r.bytes <= r.limit.Bytes && now.Sub(old.when) <= r.limit.Age {
			return
		}
		r.buf[r.start] = nil
		r.start = (r.start + 1) % len(r.buf)
		r.n--
		r.first++
		r.bytes -= old.cost()
		r.floor = max(r.floor, old.rev)
	}
}

// after returns the number of the first change after a revision.
func (r *ring) after(revision int64) int64 {
	i := sort.Search(r.n, func(i int) bool { return r.get(r.first+int64(i)).rev > revision })
	return r.first + int64(i)
}

// reset forgets everything; changes after floor follow.
func (r *ring) reset(floor int64) {
	*r = ring{limit: r.limit, floor: floor, first: r.next()}
}
