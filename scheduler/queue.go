package scheduler

import (
	"container/heap"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// Back-off and patience of the queue, as upstream's defaults are.
const (
	initialBackoff = time.Second
	maxBackoff     = 10 * time.Second
	maxUnscheduled = 5 * time.Minute
)

// queued is one waiting pod.
type queued struct {
	*Pod
	added    time.Time // first seen, for ordering
	attempts int
	// until is when the back-off ends.
	until time.Time
	// wakes are the events that may help; 0 while active.
	wakes Event
	// missed collects the events that came while the pod was being tried.
	missed Event
	state  queueState
	index  int // in its heap
	// tried is when the attempt under way began, blamed are the plugins that
	// ended the last one, to be read only.
	tried  time.Time
	blamed map[string]bool
}

type queueState int

const (
	active queueState = iota
	backingOff
	unschedulable
	inFlight
)

// Queue orders the pods that wait for a node: an active heap by priority and
// age, a back-off heap by time, and the unschedulable ones, which sleep until
// an event that concerns the filters which refused them. It is safe for
// concurrent use.
type Queue struct {
	clock clock.WithTicker

	mu      sync.Mutex
	pods    map[types.UID]*queued
	devices map[types.UID]*queued // those of pods that may need devices
	gated   map[types.UID]string  // the profiles of pods that wait for their gates
	active  byPriority
	backoff byTime
	// signal holds one token while something may be ready.
	signal   chan struct{}
	measures *measures // nil: none
}

// NewQueue returns an empty queue.
func NewQueue(c clock.WithTicker) *Queue {
	return &Queue{clock: c, pods: map[types.UID]*queued{}, devices: map[types.UID]*queued{}, gated: map[types.UID]string{}, signal: make(chan struct{}, 1)}
}

func (q *Queue) wake() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// Add puts a new pod into the queue, or takes over a changed object of a
// waiting one, which then is tried again if it had been refused.
func (q *Queue) Add(p *Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.pods[p.UID]
	if !ok {
		e = q.enter(p)
		q.push(e, active, podAdded)
		return
	}
	e.Pod = p
	switch e.state {
	case unschedulable:
		if e.wakes&PodUpdated != 0 {
			q.activate(e, PodUpdated)
		}
	case inFlight:
		e.missed |= PodUpdated
	case active:
		heap.Fix(&q.active, e.index)
	}
}

func (q *Queue) enter(p *Pod) *queued {
	e := &queued{Pod: p, added: q.clock.Now()}
	q.pods[p.UID] = e
	delete(q.gated, p.UID)
	if len(p.Spec.ResourceClaims) > 0 || len(p.request.Scalar) > 0 {
		q.devices[p.UID] = e
	}
	return e
}

// Hold is Add for a pod that need not be tried before one of wakes, and is not
// until then.
func (q *Queue) Hold(p *Pod, wakes Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.pods[p.UID]
	if !ok {
		e = q.enter(p)
	}
	e.Pod = p
	if e.state == inFlight && ok {
		return // what tries it finds out
	}
	if ok {
		q.detach(e)
	} else {
		q.measures.entered(podAdded, "unschedulable")
	}
	e.state, e.wakes, e.until = unschedulable, wakes|Timeout, q.clock.Now()
	q.wake() // the patience timer must know of it
}

// Gate is Remove for a pod that has gates, which is counted only.
func (q *Queue) Gate(p *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, known := q.gated[p.UID]
	q.removeLocked(p.UID)
	q.gated[p.UID] = p.Spec.SchedulerName
	if !known {
		q.measures.entered(podAdded, "unschedulable")
	}
}

// Remove forgets a pod.
func (q *Queue) Remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.removeLocked(uid)
}

func (q *Queue) removeLocked(uid types.UID) {
	delete(q.gated, uid)
	if e, ok := q.pods[uid]; ok {
		q.detach(e)
		delete(q.pods, uid)
		delete(q.devices, uid)
	}
}

func (q *Queue) detach(e *queued) {
	switch e.state {
	case active:
		heap.Remove(&q.active, e.index)
	case backingOff:
		heap.Remove(&q.backoff, e.index)
	}
}

// push puts a pod into one of the heaps; why is what upstream calls the reason.
func (q *Queue) push(e *queued, s queueState, why string) {
	e.state = s
	switch s {
	case active:
		e.wakes = 0
		heap.Push(&q.active, e)
		q.measures.entered(why, "active")
	case backingOff:
		heap.Push(&q.backoff, e)
		q.measures.entered(why, "backoff")
	}
	q.wake()
}

// activate moves a refused pod on: to the active heap, or to the back-off
// heap until its back-off is over.
func (q *Queue) activate(e *queued, ev Event) {
	if e.until.After(q.clock.Now()) {
		q.push(e, backingOff, ev.name())
		return
	}
	q.push(e, active, ev.name())
}

// Happened wakes the pods that an event may help.
func (q *Queue) Happened(ev Event) { q.HappenedTo(ev, nil) }

// HappenedTo is Happened for the pods alone that it concerns; nil is all.
// concerns must not block.
func (q *Queue) HappenedTo(ev Event, concerns func(*Pod) bool) {
	if ev == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	pods := q.pods
	if ev == DevicesChanged {
		pods = q.devices
	}
	for _, e := range pods {
		if concerns != nil && !concerns(e.Pod) {
			continue
		}
		switch e.state {
		case unschedulable:
			if e.wakes&ev != 0 {
				q.activate(e, ev)
			}
		case inFlight:
			e.missed |= ev
		}
	}
}

// Refused puts a pod that was taken out with Next back: it sleeps until one
// of wakes, or, if one came while it was being tried (or wakes is 0, for a
// failure that may pass by itself), only for its back-off.
func (q *Queue) Refused(uid types.UID, wakes Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.pods[uid]
	if !ok || e.state != inFlight {
		return
	}
	e.attempts++
	now := q.clock.Now()
	delay := initialBackoff << min(e.attempts-1, 5)
	e.until = now.Add(min(delay, maxBackoff))
	if wakes == 0 || e.missed&wakes != 0 {
		q.push(e, backingOff, attemptFailed)
		return
	}
	e.wakes = wakes | Timeout
	e.state = unschedulable
	q.measures.entered(attemptFailed, "unschedulable")
	q.wake() // the patience timer must know of it
}

// Done forgets a pod that has been bound.
func (q *Queue) Done(uid types.UID) { q.Remove(uid) }

// Len is how many pods wait, in all states.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pods)
}

// Next waits for the pod to try next; nil when ctx ended. The caller answers
// with Refused or Done.
func (q *Queue) Next(ctx context.Context) *Pod {
	for {
		p, wait := q.pop()
		if p != nil {
			return p
		}
		var timer clock.Timer
		var fire <-chan time.Time
		if wait > 0 {
			timer = q.clock.NewTimer(wait)
			fire = timer.C()
		}
		select {
		case <-ctx.Done():
		case <-q.signal:
		case <-fire:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// pop takes the first pod, or says how long nothing will be ready for (0: no
// time known).
func (q *Queue) pop() (*Pod, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	for len(q.backoff) > 0 && !q.backoff[0].until.After(now) {
		e := heap.Pop(&q.backoff).(*queued)
		q.push(e, active, "BackoffComplete")
	}
	if len(q.active) > 0 {
		e := heap.Pop(&q.active).(*queued)
		e.state, e.missed, e.tried, e.blamed = inFlight, 0, now, nil
		return e.Pod, 0
	}
	var wait time.Duration
	if len(q.backoff) > 0 {
		wait = q.backoff[0].until.Sub(now)
	}
	for _, e := range q.pods {
		if e.state != unschedulable {
			continue
		}
		left := e.until.Add(maxUnscheduled).Sub(now)
		if left <= 0 {
			q.push(e, active, Timeout.name())
			left = time.Nanosecond
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, wait
}

// byPriority orders by priority, then by age.
type byPriority []*queued

func (h byPriority) Len() int { return len(h) }
func (h byPriority) Less(i, j int) bool {
	if a, b := priority(h[i]), priority(h[j]); a != b {
		return a > b
	}
	return h[i].added.Before(h[j].added)
}
func (h byPriority) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *byPriority) Push(x any)   { e := x.(*queued); e.index = len(*h); *h = append(*h, e) }
func (h *byPriority) Pop() any     { return pop((*[]*queued)(h)) }

func priority(e *queued) int32 {
	if e.Spec.Priority == nil {
		return 0
	}
	return *e.Spec.Priority
}

// byTime orders by the end of the back-off.
type byTime []*queued

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h byTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *byTime) Push(x any)        { e := x.(*queued); e.index = len(*h); *h = append(*h, e) }
func (h *byTime) Pop() any          { return pop((*[]*queued)(h)) }

func pop(h *[]*queued) *queued {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
