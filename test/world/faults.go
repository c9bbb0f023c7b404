package world

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
)

// Faults is what goes wrong between the controllers and the API; chances are
// from 0 to 1. The zero value is a perfect world.
type Faults struct {
	// Slow is how long a request may take.
	Slow time.Duration
	// Lag is how far a watch may be behind; each goes its own pace.
	Lag time.Duration
	// Refuse is the chance that a write fails and does nothing.
	Refuse float64
	// Lose is the chance that a write is carried out and its answer lost.
	Lose float64
	// Break is the chance, at each event, that its watch breaks; every other
	// time the history is said to be gone, too, so that all is listed anew.
	Break float64
}

// Rough is what histories mostly want.
func Rough() Faults {
	return Faults{Slow: 50 * time.Millisecond, Lag: 3 * time.Second, Refuse: 0.05, Lose: 0.03, Break: 0.01}
}

// SetFaults makes the faults what they are to be from now on.
func (w *World) SetFaults(f Faults) {
	w.faults.mu.Lock()
	defer w.faults.mu.Unlock()
	w.faults.Faults = f
}

// faults draws from a world's faults.
type faults struct {
	mu  sync.Mutex
	rnd *rand.Rand
	Faults
}

func (f *faults) now() Faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Faults
}

func (f *faults) chance(p float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return p > 0 && f.rnd.Float64() < p
}

// some is a time up to most; mostly a short one.
func (f *faults) some(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.rnd.Float64()
	return time.Duration(x * x * x * float64(most))
}

// faulty is a door with faults. Once cut, nothing goes through it any more.
type faulty struct {
	client.Interface
	f   *faults
	cut context.Context
}

var errCut = errors.New("the connection is cut")

func (d faulty) wait(ctx context.Context, most time.Duration) error {
	t := time.NewTimer(d.f.some(most))
	defer t.Stop()
	select {
	case <-t.C:
		return d.cut.Err()
	case <-ctx.Done():
		return ctx.Err()
	case <-d.cut.Done():
		return errCut
	}
}

// Do implements client.Interface.
func (d faulty) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	now := d.f.now()
	if err := d.wait(ctx, now.Slow); err != nil {
		return nil, err
	}
	read := req.Verb == client.Get || req.Verb == client.List
	event := req.Resource.Resource == "events"
	if !read && !event && d.f.chance(now.Refuse) {
		return nil, apierrors.NewInternalError(errors.New("a fault of the test's: nothing was written"))
	}
	res, err := d.Interface.Do(ctx, req)
	if !read && !event && d.f.chance(now.Lose) {
		return nil, apierrors.NewTimeoutError("a fault of the test's: the answer is lost", 0)
	}
	if werr := d.wait(ctx, now.Slow); werr != nil && read {
		return nil, werr
	}
	return res, err
}

// Watch implements client.Interface.
func (d faulty) Watch(ctx context.Context, req *client.Request) (watch.Interface, error) {
	now := d.f.now()
	if err := d.wait(ctx, now.Slow); err != nil {
		return nil, err
	}
	in, err := d.Interface.Watch(ctx, req)
	if err != nil {
		return nil, err
	}
	w := &lagging{in: in, out: make(chan watch.Event), stopped: make(chan struct{}), d: d}
	go w.run(ctx)
	return w, nil
}

// lagging hands events on late, in order.
type lagging struct {
	in      watch.Interface
	out     chan watch.Event
	once    sync.Once
	stopped chan struct{}
	d       faulty
}

// Stop implements watch.Interface.
func (w *lagging) Stop() { w.once.Do(func() { close(w.stopped) }) }

// ResultChan implements watch.Interface.
func (w *lagging) ResultChan() <-chan watch.Event { return w.out }

func (w *lagging) run(ctx context.Context) {
	defer close(w.out)
	defer w.in.Stop()
	send := func(ev watch.Event) bool {
		select {
		case w.out <- ev:
			return true
		case <-ctx.Done():
		case <-w.stopped:
		case <-w.d.cut.Done():
		}
		return false
	}
	// What is sent comes from queue, so that one event's lag is not added to
	// the next's.
	type late struct {
		ev watch.Event
		at time.Time
	}
	queue := make(chan late, 100000)
	go func() {
		defer close(queue)
		var last time.Time
		for {
			select {
			case ev, ok := <-w.in.ResultChan():
				if !ok {
					return
				}
				at := time.Now().Add(w.d.f.some(w.d.f.now().Lag))
				if at.Before(last) {
					at = last
				}
				last = at
				queue <- late{ev, at}
			case <-ctx.Done():
				return
			case <-w.stopped:
				return
			case <-w.d.cut.Done():
				return
			}
		}
	}()
	defer w.Stop()
	for l := range queue {
		if wait := time.Until(l.at); wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
			case <-w.stopped:
			case <-w.d.cut.Done():
			}
			t.Stop()
		}
		if w.d.f.chance(w.d.f.now().Break) {
			if w.d.f.chance(0.5) {
				send(watch.Event{Type: watch.Error, Object: gone()})
			}
			return
		}
		if !send(l.ev) {
			return
		}
	}
}

func gone() runtime.Object {
	s := apierrors.NewResourceExpired("a fault of the test's: the history is gone").Status()
	return &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Code: s.Code}
}
