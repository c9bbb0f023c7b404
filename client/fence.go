package client

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// errNotLeading refuses what a component wants to write when another may lead.
var errNotLeading = errors.New("the lease has run out: another may lead")

// tenure is until when a candidate may take itself for the leader.
type tenure struct {
	length time.Duration
	from   atomic.Pointer[time.Time] // when the last renewal that succeeded was sent
}

// renewed notes that the lease was written by a request sent at t.
func (n *tenure) renewed(t time.Time) { n.from.Store(&t) }

// holds reports whether the lease is good at now. Both clocks have a say: the
// monotonic one goes on while the process is stopped and is not set by
// anybody, the other one goes on while the machine sleeps.
func (n *tenure) holds(now time.Time) bool {
	from := n.from.Load()
	return from != nil && now.Sub(*from) < n.length && now.Round(0).Sub(from.Round(0)) < n.length
}

type tenureKey struct{}

// Leading reports whether the component that ctx was given to (see
// Election.Lead) still holds its lease. A process that was stopped and goes on
// does not know yet that its time is over: its timers fire together with all
// that it was about to do. Without an election in ctx it is true.
func Leading(ctx context.Context) bool {
	n, ok := ctx.Value(tenureKey{}).(*tenure)
	return !ok || n.holds(time.Now())
}

// Fenced returns a door that refuses to begin a write, not to read, once the
// lease under which its context leads has run out.
func Fenced(door Interface) Interface { return fenced{door} }

type fenced struct{ Interface }

// Do implements Interface.
func (f fenced) Do(ctx context.Context, req *Request) (*Result, error) {
	if req.Verb != Get && req.Verb != List && !Leading(ctx) {
		return nil, errNotLeading
	}
	return f.Interface.Do(ctx, req)
}
