package kubelet

import (
	"context"
	"runtime"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// turns has pods use the runtime a few at a time. Their containers are made
// and removed by a handful of processes each and in kernel and database one
// after the other: a crowd that all begin at once get nowhere for a long time,
// and a single pod among them stands in line with them all. So those who begin
// first finish first, and what starts goes before what ends.
type turns struct {
	clock clock.WithDelayedExecution
	// most is how many starts, and how many ends, are under way at once.
	most int

	mu     sync.Mutex
	active [turnKinds]int
	queue  [turnKinds][]chan struct{} // closed when it is their turn
}

// turnKind is what a turn is for, in the order in which they go first.
type turnKind int

const (
	turnFinish turnKind = iota // a pod's first containers: its sandbox is there
	turnStart                  // a sandbox
	turnAgain                  // a container that starts again
	turnEnd                    // whatever stops or removes
	turnKinds
)

// maxTurn is how long one keeps others waiting: who hangs must not keep other
// pods from starting or ending.
const maxTurn = 5 * time.Second

// A container that is told to stop may take its time, or not stop at all: it
// has the turn for a moment only, in which most are gone, and nobody waits long
// to be told.
const (
	maxStop     = 200 * time.Millisecond
	maxStopWait = 2 * time.Second
)

// stopTurn waits for a turn to stop a container, for a moment at most. Call
// what it returns when the container has stopped.
func (k *Kubelet) stopTurn(ctx context.Context) (done func()) {
	ctx, cancel := context.WithTimeout(ctx, maxStopWait)
	defer cancel()
	return k.turns.take(ctx, turnEnd, maxStop)
}

func newTurns(c clock.WithDelayedExecution) *turns {
	return &turns{clock: c, most: max(4, 2*runtime.NumCPU())}
}

// take waits for a turn of at most so long. Call what it returns when that is
// done; if ctx ends before, it is nobody's turn and nothing is to be done.
func (t *turns) take(ctx context.Context, kind turnKind, most time.Duration) (done func()) {
	t.mu.Lock()
	turn := make(chan struct{})
	t.queue[kind] = append(t.queue[kind], turn)
	t.next()
	t.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		if t.leave(kind, turn) {
			return func() {}
		}
	}
	free := sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.active[kind]--
		t.next()
	})
	timer := t.clock.AfterFunc(most, free)
	return func() {
		timer.Stop()
		free()
	}
}

// leave takes one who no longer waits out of the queue; false says that it has
// its turn by now.
func (t *turns) leave(kind turnKind, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range t.queue[kind] {
		if c == turn {
			t.queue[kind] = append(t.queue[kind][:i:i], t.queue[kind][i+1:]...)
			t.next()
			return true
		}
	}
	return false
}

// next begins the turns that may begin. Call with the lock held.
func (t *turns) next() {
	for kind := range turnKinds {
		for len(t.queue[kind]) > 0 && t.may(kind) {
			t.active[kind]++
			close(t.queue[kind][0])
			t.queue[kind] = t.queue[kind][1:]
		}
	}
}

// may says that one more of the kind may begin. While pods are new, others
// start again, and end, one at a time: never none, because on a busy node some
// are always new. Call with the lock held.
func (t *turns) may(kind turnKind) bool {
	fresh := t.active[turnFinish] + t.active[turnStart]
	waits := len(t.queue[turnFinish]) + len(t.queue[turnStart])
	switch {
	case kind == turnAgain && waits > 0, kind == turnEnd && fresh+waits > 0:
		return t.active[kind] < 1
	case kind == turnEnd:
		return t.active[kind] < t.most
	}
	return fresh+t.active[turnAgain] < t.most
}
