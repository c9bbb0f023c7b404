package client

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
)

// Loop is the one reconcile loop: keys in, rate-limited retries, a fixed
// number of workers, and never the same key in two workers at once.
type Loop struct {
	name      string
	queue     workqueue.TypedRateLimitingInterface[string]
	reconcile func(ctx context.Context, key string) (again time.Duration, err error)
	log       *slog.Logger
	metrics   *Metrics // nil measures nothing

	mu    sync.Mutex
	since map[string]time.Time // when the reconciles under way began; only with metrics
}

// NewLoop makes a loop. reconcile brings one key's object to its desired
// state: an error puts the key back with growing delay (5 ms to 1000 s), a
// positive again puts it back after that time, whatever happens in between.
// A panic in reconcile counts as an error.
func NewLoop(name string, log *slog.Logger, reconcile func(ctx context.Context, key string) (again time.Duration, err error)) *Loop {
	return NewMeasuredLoop(name, nil, log, reconcile)
}

// NewMeasuredLoop is NewLoop with metrics under the loop's name; nil measures
// nothing.
func NewMeasuredLoop(name string, m *Metrics, log *slog.Logger, reconcile func(ctx context.Context, key string) (again time.Duration, err error)) *Loop {
	cfg := workqueue.TypedRateLimitingQueueConfig[string]{Name: name, Clock: quietClock{}}
	l := &Loop{name: name, reconcile: reconcile, log: log, metrics: m}
	if m != nil {
		cfg.MetricsProvider, l.since = provider{m}, map[string]time.Time{}
	}
	l.queue = workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, 1000*time.Second), cfg)
	return l
}

// quietClock is the real clock but for tickers, which never tick. The queue
// asks for one to look every 10 s whether it overslept, which monotonic time
// makes needless; dozens of queues doing so are most of an idle process.
type quietClock struct{ clock.RealClock }

// NewTicker implements clock.WithTicker.
func (quietClock) NewTicker(time.Duration) clock.Ticker { return quietTicker{} }

type quietTicker struct{}

func (quietTicker) C() <-chan time.Time { return nil }
func (quietTicker) Stop()               {}

// Add puts a key into the queue. A key that waits already is not added twice.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter puts a key into the queue when d has passed.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// AddObject puts an object's "namespace/name" into the queue.
func (l *Loop) AddObject(obj Object) {
	l.queue.Add(cache.ObjectName{Namespace: obj.GetNamespace(), Name: obj.GetName()}.String())
}

// AddObjectAfter puts an object's "namespace/name" into the queue when d has
// passed; at once if d is 0.
func (l *Loop) AddObjectAfter(obj Object, d time.Duration) {
	l.queue.AddAfter(cache.ObjectName{Namespace: obj.GetNamespace(), Name: obj.GetName()}.String(), d)
}

// Run works until ctx ends, then waits for the workers.
func (l *Loop) Run(ctx context.Context, workers int) {
	defer l.metrics.runs(l)()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	wg.Wait()
}

func (l *Loop) next(ctx context.Context) bool {
	key, stop := l.queue.Get()
	if stop {
		return false
	}
	defer l.queue.Done(key)
	again, err := l.once(ctx, key)
	switch {
	case err != nil && ctx.Err() == nil:
		l.log.Debug("reconcile failed, will retry", "loop", l.name, "key", key, "error", err, "retries", l.queue.NumRequeues(key))
		l.queue.AddRateLimited(key)
	case again > 0:
		l.queue.Forget(key)
		l.queue.AddAfter(key, again)
	default:
		l.queue.Forget(key)
	}
	return true
}

func (l *Loop) once(ctx context.Context, key string) (again time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			l.log.Error("reconcile panicked", "loop", l.name, "key", key, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if l.metrics != nil {
		l.begins(key)
		defer l.ends(key)
	}
	return l.reconcile(ctx, key)
}

func (l *Loop) begins(key string) {
	l.mu.Lock()
	l.since[key] = time.Now()
	l.mu.Unlock()
}

func (l *Loop) ends(key string) {
	l.mu.Lock()
	delete(l.since, key)
	l.mu.Unlock()
}

// underWay is how long all reconciles under way have taken so far, and the
// longest of them.
func (l *Loop) underWay() (sum, longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.since {
		d := time.Since(t)
		sum, longest = sum+d, max(longest, d)
	}
	return sum, longest
}
