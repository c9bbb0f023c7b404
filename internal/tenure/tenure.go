// Package tenure says for how long a leader may take itself for one: what it
// does carries its tenure in the context, and whoever writes on its behalf asks
// once more, at the last moment, whether it is over.
package tenure

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// ErrOver refuses what a component wants to write when another may lead.
var ErrOver = errors.New("the lease has run out: another may lead")

// Tenure is until when a candidate may take itself for the leader. It is safe
// for concurrent use.
type Tenure struct {
	// Length is how long a renewal is good for; it is set before use.
	Length time.Duration
	from   atomic.Pointer[time.Time] // when the last renewal that succeeded was sent
	fence  atomic.Pointer[Fence]
}

// Fence is the write by which a Lease changed hands. As long as no other did,
// its holder leads, whatever the clocks say.
type Fence struct {
	Lease    string // namespace/name
	Revision int64  // the Lease's, as etcd counts, after that write
}

// Taken notes that the Lease came to this candidate by the given write.
func (n *Tenure) Taken(f Fence) { n.fence.Store(&f) }

// Renewed notes that the lease was written by a request sent at t.
func (n *Tenure) Renewed(t time.Time) { n.from.Store(&t) }

// Holds reports whether the lease is good at now. Both clocks have a say: the
// monotonic one goes on while the process is stopped and is not set by
// anybody, the other one goes on while the machine sleeps.
func (n *Tenure) Holds(now time.Time) bool {
	from := n.from.Load()
	return from != nil && now.Sub(*from) < n.Length && now.Round(0).Sub(from.Round(0)) < n.Length
}

type key struct{}

// With returns ctx for what is done by the holder of n.
func With(ctx context.Context, n *Tenure) context.Context { return context.WithValue(ctx, key{}, n) }

// Behind returns what must still be as it was when ctx's leader writes something
// where its Lease is stored, or nil if nothing is known to (nobody competes).
func Behind(ctx context.Context) *Fence {
	if n, ok := ctx.Value(key{}).(*Tenure); ok {
		return n.fence.Load()
	}
	return nil
}

// Check is ErrOver if ctx is of a leader whose time is over, else nil. A process
// that was stopped and goes on does not know of that yet: its timers fire
// together with all that it was about to do.
func Check(ctx context.Context) error {
	if n, ok := ctx.Value(key{}).(*Tenure); ok && !n.Holds(time.Now()) {
		return ErrOver
	}
	return nil
}
