package main

import (
	"context"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

const (
	// restAfter is how long after it was disturbed a shim goes to rest.
	restAfter = 30 * time.Second
	// gcPercent is how much a shim's heap grows between two collections. Heaps
	// are small and many.
	gcPercent = 40
	// restingHeap is at how many bytes of memory a resting shim collects
	// garbage after all. What it copies of its containers' output makes none.
	restingHeap = 32 << 20
)

// rest lets a shim sleep while nobody wants anything of it. It gives back the
// memory that it does not need, once, and switches off the collection that
// Go's runtime would else make every two minutes.
type rest struct {
	settle func() // gives back memory and switches collections off
	rouse  func() // switches them on again

	mu      sync.Mutex
	resting bool
	timer   *time.Timer // runs while disturbed
}

func newRest() *rest {
	r := &rest{settle: settle, rouse: rouse}
	debug.SetGCPercent(gcPercent)
	r.disturbed()
	return r
}

func settle() {
	debug.FreeOSMemory()
	debug.SetMemoryLimit(restingHeap)
	debug.SetGCPercent(-1)
}

func rouse() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(math.MaxInt64)
}

// intercept notes a request's begin and end. Some, such as those that wait for
// a container's end, take as long as the shim lives and do nothing.
func (r *rest) intercept(ctx context.Context, in ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	r.disturbed()
	defer r.disturbed()
	return method(ctx, in)
}

// disturbed ends the rest. The next comes restAfter later, whatever happens
// meanwhile, so that a shim which is asked for something all the time (a
// container whose probe runs a program) gives back its memory too.
func (r *rest) disturbed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resting {
		r.rouse()
		r.resting = false
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(restAfter, r.begin)
	}
}

func (r *rest) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle()
	r.resting, r.timer = true, nil
}
