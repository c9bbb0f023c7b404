package flow

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pool is the seats of one priority level and who waits for them. As long as
// nobody waits, taking a seat is a lock and a sum; the books of fair queuing
// are kept only while somebody does.
//
// Fairness is start-time fair queuing: each queue has a virtual start, the
// next request is that of the queue with the least, and what a request takes
// (seats times seconds) moves its queue's start on. How long a request runs is
// not known when it is chosen, so it is charged what requests take on average
// and corrected when it is done.
type pool struct {
	name     string
	isExempt bool

	mu sync.Mutex
	// What the level is configured to: seats of its own, the bounds between
	// which borrowing moves limit, and its queues (queues 0: who finds no
	// seat is refused).
	nominal, lower, upper int
	limit                 int
	deal                  dealer
	queueLimit            int

	inUse, executing int
	waiting, wanted  int // requests that wait, and their seats
	high             int // most seats in use or wanted since the last look
	starved          bool

	queues  map[int]*queue // those with requests since contention began
	virtual float64        // the start of the request chosen last
	average float64        // seconds that a request holds its seats

	usages map[string]*usage
}

// usage counts what one flow schema does with one level. It is guarded by the
// pool.
type usage struct {
	schema                    string
	dispatched                uint64
	executing, seats, waiting int
	rejected                  [reasons]uint64
	waited, refused           prometheus.Observer
	regular, watches          prometheus.Observer
}

type queue struct {
	index     int
	start     float64
	list      []*waiter // the first is next
	seats     int       // of list
	executing int
	inUse     int
}

// waiter is a request in a queue.
type waiter struct {
	usage   *usage
	queue   *queue
	seats   int
	arrived time.Time
	ready   chan struct{} // closed when the seats are its
	guess   float64       // seconds, as charged to the queue
	flow    string
	user    string
	a       Attributes
}

// reason is why a request was turned away.
type reason int

const (
	granted reason = iota
	tooMany        // no seat, and the level has no queues
	queueFull
	timedOut
	cancelled
	reasons
)

// String is the reason as the metrics name it.
func (r reason) String() string {
	return [...]string{"", "concurrency-limit", "queue-full", "time-out", "cancelled"}[r]
}

// take gets seats for a request, waiting for them at most until ctx ends or
// for patience. starved is called, without a lock, when there are none at
// once.
func (p *pool) take(ctx context.Context, s *flowSchema, a *Attributes, now time.Time, patience time.Duration, starved func()) (Turn, reason) {
	seats := max(a.Seats, 1)
	u := s.usage
	p.mu.Lock()
	if !p.isExempt {
		seats = min(seats, max(p.limit, 1))
	}
	if p.isExempt || p.waiting == 0 && p.inUse+seats <= p.limit {
		p.begin(u, seats)
		p.high = max(p.high, p.inUse)
		p.mu.Unlock()
		return Turn{pool: p, schema: s, usage: u, seats: seats, began: now, watch: a.Verb == "watch"}, granted
	}
	p.starved = true
	p.high = max(p.high, p.inUse+p.wanted+seats)
	w, why := p.enqueue(s, a, seats, now)
	p.mu.Unlock()
	starved()
	if why != granted {
		return Turn{}, why
	}
	return p.wait(ctx, w, s, patience)
}

func (p *pool) begin(u *usage, seats int) {
	p.inUse += seats
	p.executing++
	u.dispatched++
	u.executing++
	u.seats += seats
}

// enqueue puts a request into the emptiest queue of its flow's hand.
func (p *pool) enqueue(s *flowSchema, a *Attributes, seats int, now time.Time) (*waiter, reason) {
	if p.deal.queues == 0 {
		s.usage.rejected[tooMany]++
		return nil, tooMany
	}
	var room [mostHand]int
	flow := s.distinguisher(a)
	var q *queue
	for _, i := range p.deal.deal(room[:0], s.name, flow) {
		c := p.queues[i]
		if c == nil {
			c = &queue{index: i}
		}
		if q == nil || c.seats+c.inUse < q.seats+q.inUse {
			q = c
		}
	}
	if len(q.list) >= p.queueLimit {
		s.usage.rejected[queueFull]++
		return nil, queueFull
	}
	if p.queues == nil {
		p.queues = map[int]*queue{}
	}
	p.queues[q.index] = q
	if len(q.list) == 0 {
		q.start = max(q.start, p.virtual)
	}
	w := &waiter{usage: s.usage, queue: q, seats: seats, arrived: now, ready: make(chan struct{}), flow: flow, user: a.User.Name, a: *a}
	w.a.User = nil
	q.list = append(q.list, w)
	q.seats += seats
	p.waiting++
	p.wanted += seats
	s.usage.waiting++
	p.dispatch()
	return w, granted
}

// dispatch gives free seats to the requests that are next. One that needs
// more than there are is waited for: smaller ones passing it could go on
// doing so for ever.
func (p *pool) dispatch() {
	for p.waiting > 0 {
		var q *queue
		for _, c := range p.queues {
			if len(c.list) > 0 && (q == nil || c.start < q.start || c.start == q.start && c.index < q.index) {
				q = c
			}
		}
		w := q.list[0]
		if w.seats > p.limit && p.inUse == 0 && p.limit > 0 {
			p.wanted -= w.seats - p.limit // the limit was lowered after it came
			q.seats -= w.seats - p.limit
			w.seats = p.limit
		}
		if p.inUse+w.seats > p.limit {
			return
		}
		p.leave(w, 0)
		p.virtual = q.start
		w.guess = p.average
		q.start += float64(w.seats) * w.guess
		q.executing++
		q.inUse += w.seats
		p.begin(w.usage, w.seats)
		close(w.ready)
	}
	// Nobody waits: the books are closed.
	p.queues, p.virtual = nil, 0
}

// leave takes the i-th request out of its queue.
func (p *pool) leave(w *waiter, i int) {
	q := w.queue
	copy(q.list[i:], q.list[i+1:])
	q.list[len(q.list)-1] = nil
	q.list = q.list[:len(q.list)-1]
	q.seats -= w.seats
	p.waiting--
	p.wanted -= w.seats
	w.usage.waiting--
}

func (p *pool) wait(ctx context.Context, w *waiter, s *flowSchema, patience time.Duration) (Turn, reason) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	why := granted
	select {
	case <-w.ready:
	case <-timer.C:
		why = timedOut
	case <-ctx.Done():
		why = cancelled
		if ctx.Err() == context.DeadlineExceeded {
			why = timedOut
		}
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range w.queue.list {
		if other == w { // its turn has not come
			p.leave(w, i)
			w.usage.rejected[why]++
			p.dispatch() // it may have been one that others waited behind
			w.usage.refused.Observe(now.Sub(w.arrived).Seconds())
			return Turn{}, why
		}
	}
	w.usage.waited.Observe(now.Sub(w.arrived).Seconds())
	return Turn{pool: p, schema: s, usage: w.usage, queue: w.queue, seats: w.seats, began: now, guess: w.guess, watch: w.a.Verb == "watch"}, granted
}

// smoothing is the weight of one request in the average.
const smoothing = 1.0 / 16

// end gives a turn's seats back.
func (p *pool) end(t *Turn, now time.Time) {
	took := now.Sub(t.began).Seconds()
	p.mu.Lock()
	p.inUse -= t.seats
	p.executing--
	t.usage.executing--
	t.usage.seats -= t.seats
	p.average += (took - p.average) * smoothing
	if q := t.queue; q != nil {
		q.executing--
		q.inUse -= t.seats
		q.start += (took - t.guess) * float64(t.seats)
	}
	if p.waiting > 0 {
		p.dispatch()
	}
	p.mu.Unlock()
}

// setLimit changes how many seats there are.
func (p *pool) setLimit(n int) {
	p.limit = n
	if p.waiting > 0 {
		p.dispatch()
	}
}
