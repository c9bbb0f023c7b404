package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// BatchSink takes several finished events at once.
type BatchSink interface {
	WriteBatch(ctx context.Context, evs []*auditv1.Event) error
}

// Singly hands a batch to a sink event by event.
func Singly(s Sink) BatchSink { return singly{s} }

type singly struct{ s Sink }

// WriteBatch implements BatchSink.
func (s singly) WriteBatch(_ context.Context, evs []*auditv1.Event) error {
	var errs []error
	for _, ev := range evs {
		errs = append(errs, s.s.Write(ev))
	}
	return errors.Join(errs...)
}

// BatchOptions bound a Batch. Zero fields mean upstream's defaults for
// webhooks.
type BatchOptions struct {
	Buffer  int           // events that wait at most; 10000
	Size    int           // events of one batch at most; 400
	Wait    time.Duration // how long the first of a batch waits for the last; 30 s
	Every   time.Duration // between two batches, once Burst is used up; 100 ms
	Burst   int           // batches sent without a pause; 15
	NoLimit bool          // no pauses at all
	// Failed is told of events that are lost. It must not log them.
	Failed func(error)
}

func (o *BatchOptions) defaults() {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.Buffer, 10000)
	set(&o.Size, 400)
	set(&o.Burst, 15)
	if o.Wait == 0 {
		o.Wait = 30 * time.Second
	}
	if o.Every == 0 {
		o.Every = 100 * time.Millisecond
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
}

// ErrFull is the error of an event that was dropped.
var ErrFull = errors.New("the buffer of audit events is full")

// Batch is a sink that no request waits for: events are collected and handed
// on in batches.
type Batch struct {
	o     BatchOptions
	next  BatchSink
	queue chan *auditv1.Event
	done  chan struct{}
	stop  context.CancelFunc

	mu     sync.RWMutex // held for reading while something is queued
	closed bool
}

// NewBatch starts handing on; Close ends it.
func NewBatch(next BatchSink, o BatchOptions) *Batch {
	o.defaults()
	ctx, cancel := context.WithCancel(context.Background())
	b := &Batch{o: o, next: next, queue: make(chan *auditv1.Event, o.Buffer), done: make(chan struct{}), stop: cancel}
	go b.run(ctx)
	return b
}

// Write queues an event; a full queue drops it and returns ErrFull.
func (b *Batch) Write(ev *auditv1.Event) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return os.ErrClosed
	}
	select {
	case b.queue <- ev:
		return nil
	default:
		return ErrFull
	}
}

// Close hands on what is queued, waiting for it at most until ctx ends. Later
// writes fail.
func (b *Batch) Close(ctx context.Context) error {
	b.mu.Lock()
	if !b.closed {
		close(b.queue)
	}
	b.closed = true
	b.mu.Unlock()
	defer b.stop()
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("audit events are lost: %w", ctx.Err())
	}
}

func (b *Batch) run(ctx context.Context) {
	defer close(b.done)
	allowance, refilled := b.o.Burst, time.Now()
	for {
		batch, open := b.collect()
		if len(batch) > 0 {
			if !b.o.NoLimit && open {
				allowance, refilled = b.pause(ctx, allowance, refilled)
			}
			if err := b.next.WriteBatch(ctx, batch); err != nil {
				b.o.Failed(fmt.Errorf("%d audit events are lost: %w", len(batch), err))
			}
		}
		if !open {
			return
		}
	}
}

// collect waits for a first event and then for as many as make a batch, or as
// long as a batch may wait. open is false after Close, when nothing is left.
func (b *Batch) collect() (batch []*auditv1.Event, open bool) {
	ev, ok := <-b.queue
	if !ok {
		return nil, false
	}
	batch = append(batch, ev)
	t := time.NewTimer(b.o.Wait)
	defer t.Stop()
	for len(batch) < b.o.Size {
		select {
		case ev, ok := <-b.queue:
			if !ok {
				return batch, false
			}
			batch = append(batch, ev)
		case <-t.C:
			return batch, true
		}
	}
	return batch, true
}

// pause waits until one more batch may be sent.
func (b *Batch) pause(ctx context.Context, allowance int, refilled time.Time) (int, time.Time) {
	if n := int(time.Since(refilled) / b.o.Every); n > 0 {
		allowance, refilled = min(allowance+n, b.o.Burst), refilled.Add(time.Duration(n)*b.o.Every)
	}
	if allowance > 0 {
		return allowance - 1, refilled
	}
	t := time.NewTimer(time.Until(refilled.Add(b.o.Every)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return 0, refilled.Add(b.o.Every)
}
