package client

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/workqueue"

	"github.com/coxswain/cox/internal/metricset"
)

// Metrics measure a component's loops, requests and leases, under the names
// that upstream's components have (the page "Kubernetes Metrics Reference").
// It is a prometheus.Collector, safe for concurrent use. A nil *Metrics
// measures nothing.
type Metrics struct {
	measured metricset.Set // all of the next three lines

	depth, leader           *prometheus.GaugeVec
	adds, retries, requests *prometheus.CounterVec
	waited, worked, took    *prometheus.HistogramVec
	unfinished, longest     *prometheus.Desc

	mu    sync.Mutex
	loops map[string]map[*Loop]bool // those that run, by name
}

// NewMetrics returns metrics without samples.
func NewMetrics() *Metrics {
	queue := []string{"name"}
	times := prometheus.ExponentialBuckets(1e-8, 10, 10)
	gauge := func(name, help string, labels []string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels []string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		depth:    gauge("workqueue_depth", "[BETA] Current depth of workqueue", queue),
		adds:     counter("workqueue_adds_total", "[BETA] Total number of adds handled by workqueue", queue),
		retries:  counter("workqueue_retries_total", "[BETA] Total number of retries handled by workqueue", queue),
		waited:   histogram("workqueue_queue_duration_seconds", "[BETA] How long in seconds an item stays in workqueue before being requested.", times, queue),
		worked:   histogram("workqueue_work_duration_seconds", "[BETA] How long in seconds processing an item from workqueue takes.", times, queue),
		leader:   gauge("leader_election_master_status", "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.", queue),
		requests: counter("rest_client_requests_total", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.", []string{"code", "host", "method"}),
		took: histogram("rest_client_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
			[]float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}, []string{"host", "verb"}),
		unfinished: prometheus.NewDesc("workqueue_unfinished_work_seconds", "How many seconds of work has been done that is in progress and hasn't been observed by work_duration.", queue, nil),
		longest:    prometheus.NewDesc("workqueue_longest_running_processor_seconds", "[BETA] How many seconds has the longest running processor for workqueue been running.", queue, nil),
		loops:      map[string]map[*Loop]bool{},
	}
	m.measured = metricset.Set{m.depth, m.leader, m.adds, m.retries, m.requests, m.waited, m.worked, m.took}
	return m
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.measured.Describe(ch)
	ch <- m.unfinished
	ch <- m.longest
}

// Collect implements prometheus.Collector. What is under way is measured now,
// not every half second as client-go's queues would.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.measured.Collect(ch)
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, loops := range m.loops {
		var sum, longest time.Duration
		for l := range loops {
			s, most := l.underWay()
			sum, longest = sum+s, max(longest, most)
		}
		ch <- prometheus.MustNewConstMetric(m.unfinished, prometheus.GaugeValue, sum.Seconds(), name)
		ch <- prometheus.MustNewConstMetric(m.longest, prometheus.GaugeValue, longest.Seconds(), name)
	}
}

// runs notes that a loop works, until the returned function is called.
func (m *Metrics) runs(l *Loop) (ended func()) {
	if m == nil {
		return func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loops[l.name] == nil {
		m.loops[l.name] = map[*Loop]bool{}
	}
	m.loops[l.name][l] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.loops[l.name], l)
		if len(m.loops[l.name]) == 0 {
			delete(m.loops, l.name)
			// What still waited has nobody who would take it out.
			m.depth.WithLabelValues(l.name).Set(0)
		}
	}
}

// leads notes whether this process holds a lease.
func (m *Metrics) leads(lease string, yes bool) {
	if m == nil {
		return
	}
	v := 0.0
	if yes {
		v = 1
	}
	m.leader.WithLabelValues(lease).Set(v)
}

// provider is the queue's view of the metrics.
type provider struct{ m *Metrics }

func (p provider) NewDepthMetric(n string) workqueue.GaugeMetric { return p.m.depth.WithLabelValues(n) }
func (p provider) NewAddsMetric(n string) workqueue.CounterMetric {
	return p.m.adds.WithLabelValues(n)
}
func (p provider) NewLatencyMetric(n string) workqueue.HistogramMetric {
	return p.m.waited.WithLabelValues(n)
}
func (p provider) NewWorkDurationMetric(n string) workqueue.HistogramMetric {
	return p.m.worked.WithLabelValues(n)
}
func (p provider) NewRetriesMetric(n string) workqueue.CounterMetric {
	return p.m.retries.WithLabelValues(n)
}

// The queue would set these two by a ticker, which it is not given.
func (p provider) NewUnfinishedWorkSecondsMetric(string) workqueue.SettableGaugeMetric {
	return unset{}
}
func (p provider) NewLongestRunningProcessorSecondsMetric(string) workqueue.SettableGaugeMetric {
	return unset{}
}

type unset struct{}

func (unset) Set(float64) {}

// Counted returns the door with every request through it counted as one to
// host; a nil m returns the door itself. Requests that never reach HTTP are
// counted as what they would be there.
func (m *Metrics) Counted(door Interface, host string) Interface {
	if m == nil {
		return door
	}
	return &counted{door: door, m: m, host: host}
}

type counted struct {
	door Interface
	m    *Metrics
	host string
	kept sync.Map // of countedKey -> *counters: finding one by labels costs ten times as much
}

type countedKey struct {
	verb Verb
	code int
}

type counters struct {
	n    prometheus.Counter
	took prometheus.Observer
}

var methods = map[Verb]string{
	Get: http.MethodGet, List: http.MethodGet, Watch: http.MethodGet, Create: http.MethodPost, Update: http.MethodPut,
	Patch: http.MethodPatch, Delete: http.MethodDelete, DeleteCollection: http.MethodDelete,
}

func (c *counted) observe(verb Verb, code int, took time.Duration) {
	key := countedKey{verb, code}
	v, ok := c.kept.Load(key)
	if !ok {
		text := "<error>"
		if code != 0 {
			text = strconv.Itoa(code)
		}
		v, _ = c.kept.LoadOrStore(key, &counters{
			n:    c.m.requests.WithLabelValues(text, c.host, methods[verb]),
			took: c.m.took.WithLabelValues(c.host, methods[verb]),
		})
	}
	v.(*counters).n.Inc()
	v.(*counters).took.Observe(took.Seconds())
}

func codeOf(err error, created bool) int {
	var status apierrors.APIStatus
	switch {
	case err == nil && created:
		return http.StatusCreated
	case err == nil:
		return http.StatusOK
	case errors.As(err, &status):
		return int(status.Status().Code)
	}
	return 0 // no answer
}

// Do implements Interface.
func (c *counted) Do(ctx context.Context, req *Request) (*Result, error) {
	verb, begin := req.Verb, time.Now()
	res, err := c.door.Do(ctx, req)
	c.observe(verb, codeOf(err, err == nil && res.Created), time.Since(begin))
	return res, err
}

// Watch implements Interface.
func (c *counted) Watch(ctx context.Context, req *Request) (watch.Interface, error) {
	begin := time.Now()
	w, err := c.door.Watch(ctx, req)
	c.observe(Watch, codeOf(err, false), time.Since(begin))
	return w, err
}
