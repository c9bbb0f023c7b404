package store

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/internal/metricset"
)

// Durations measure what is asked of etcd and count what it tells, and what
// lists go through, in upstream's names. It is a prometheus.Collector, safe for
// concurrent use; a nil *Durations measures nothing.
type Durations struct {
	metricset.Set
	requests                *prometheus.HistogramVec
	asked, failed           *prometheus.CounterVec
	events, taken           *prometheus.CounterVec
	broken, begun           *prometheus.CounterVec
	lists, cachedLists      *prometheus.CounterVec
	fetched, cachedFetched  *prometheus.CounterVec
	evaluated               *prometheus.CounterVec
	returned, cachedReturns *prometheus.CounterVec
}

// NewDurations makes measures of nothing yet.
func NewDurations() *Durations {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metricset.Counters(name, help, append([]string{"group", "resource"}, labels...)...)
	}
	d := &Durations{
		requests: metricset.Histograms("etcd_request_duration_seconds", "[ALPHA] Etcd request latency in seconds for each operation and object type.",
			[]float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
			"group", "resource", "operation"),
		asked:         counter("etcd_requests_total", "[ALPHA] Etcd request counts for each operation and object type.", "operation"),
		failed:        counter("etcd_request_errors_total", "[ALPHA] Etcd failed request counts for each operation and object type.", "operation"),
		events:        counter("apiserver_storage_events_received_total", "[BETA] Number of etcd events received split by kind."),
		taken:         counter("apiserver_watch_cache_events_received_total", "[ALPHA] Counter of events received in watch cache broken by resource type."),
		broken:        counter("apiserver_storage_decode_errors_total", "[ALPHA] Number of stored object decode errors split by object type"),
		begun:         counter("apiserver_watch_cache_initializations_total", "[ALPHA] Counter of watch cache initializations broken by resource type."),
		lists:         counter("apiserver_storage_list_total", "[ALPHA] Number of LIST requests served from storage"),
		fetched:       counter("apiserver_storage_list_fetched_objects_total", "[ALPHA] Number of objects read from storage in the course of serving a LIST request"),
		evaluated:     counter("apiserver_storage_list_evaluated_objects_total", "[ALPHA] Number of objects tested in the course of serving a LIST request from storage"),
		returned:      counter("apiserver_storage_list_returned_objects_total", "[ALPHA] Number of objects returned for a LIST request from storage"),
		cachedLists:   counter("apiserver_cache_list_total", "[ALPHA] Number of LIST requests served from watch cache", "index"),
		cachedFetched: counter("apiserver_cache_list_fetched_objects_total", "[ALPHA] Number of objects read from watch cache in the course of serving a LIST request", "index"),
		cachedReturns: counter("apiserver_cache_list_returned_objects_total", "[ALPHA] Number of objects returned for a LIST request from watch cache"),
	}
	d.Set = metricset.Set{
		d.requests, d.asked, d.failed, d.events, d.taken, d.broken, d.begun,
		d.lists, d.fetched, d.evaluated, d.returned, d.cachedLists, d.cachedFetched, d.cachedReturns,
	}
	return d
}

// operation is what is asked of etcd.
type operation int

const (
	opGet operation = iota
	opList
	opCreate
	opUpdate
	opDelete
	operations
)

var operationNames = [operations]string{"get", "list", "create", "update", "delete"}

// measure is what one operation on one kind is measured by.
type measure struct {
	took prometheus.Observer
	n    prometheus.Counter
}

// told are the counters of what the caches of a kind are told.
type told struct{ events, taken prometheus.Counter }

// lookedThrough are the counters of the lists of a kind.
type lookedThrough struct{ lists, fetched, evaluated, returned prometheus.Counter }

// stopwatch measures what is asked of etcd for one kind. A measure is made when
// it is first needed: most kinds are never written.
type stopwatch struct {
	of     *Durations
	gr     schema.GroupResource
	per    [operations]atomic.Pointer[measure]
	got    atomic.Pointer[told]
	stored atomic.Pointer[lookedThrough] // of lists that etcd served
	cached atomic.Pointer[lookedThrough]
}

// received notes that etcd told of so many events.
func (s *stopwatch) received(n int) {
	if s.of == nil {
		return
	}
	c := s.got.Load()
	if c == nil {
		c = &told{s.of.events.WithLabelValues(s.gr.Group, s.gr.Resource), s.of.taken.WithLabelValues(s.gr.Group, s.gr.Resource)}
		s.got.Store(c)
	}
	c.events.Add(float64(n))
	c.taken.Add(float64(n))
}

// undecodable notes an object that cannot be read.
func (s *stopwatch) undecodable() {
	if s.of != nil {
		s.of.broken.WithLabelValues(s.gr.Group, s.gr.Resource).Inc()
	}
}

// initialized notes that the kind's cache has been filled.
func (s *stopwatch) initialized() {
	if s.of != nil {
		s.of.begun.WithLabelValues(s.gr.Group, s.gr.Resource).Inc()
	}
}

// listedStored notes a list that etcd served: what was read and tested for it,
// and what it has.
func (s *stopwatch) listedStored(fetched, returned int) {
	if s.of == nil {
		return
	}
	c := s.stored.Load()
	if c == nil {
		g, r := s.gr.Group, s.gr.Resource
		c = &lookedThrough{
			s.of.lists.WithLabelValues(g, r), s.of.fetched.WithLabelValues(g, r),
			s.of.evaluated.WithLabelValues(g, r), s.of.returned.WithLabelValues(g, r),
		}
		s.stored.Store(c)
	}
	c.evaluated.Add(float64(fetched))
	c.add(fetched, returned)
}

// listedCached is listedStored of one that the cache served.
func (s *stopwatch) listedCached(fetched, returned int) {
	if s.of == nil {
		return
	}
	c := s.cached.Load()
	if c == nil {
		g, r := s.gr.Group, s.gr.Resource
		c = &lookedThrough{
			lists: s.of.cachedLists.WithLabelValues(g, r, ""), fetched: s.of.cachedFetched.WithLabelValues(g, r, ""),
			returned: s.of.cachedReturns.WithLabelValues(g, r),
		}
		s.cached.Store(c)
	}
	c.add(fetched, returned)
}

func (c *lookedThrough) add(fetched, returned int) {
	c.lists.Inc()
	c.fetched.Add(float64(fetched))
	c.returned.Add(float64(returned))
}

// since notes that an operation which began then has ended, and how.
func (s *stopwatch) since(op operation, begin time.Time, err error) {
	if s.of == nil {
		return
	}
	m := s.per[op].Load()
	if m == nil {
		g, r, name := s.gr.Group, s.gr.Resource, operationNames[op]
		m = &measure{s.of.requests.WithLabelValues(g, r, name), s.of.asked.WithLabelValues(g, r, name)}
		s.per[op].Store(m)
	}
	m.took.Observe(time.Since(begin).Seconds())
	m.n.Inc()
	if err != nil {
		s.of.failed.WithLabelValues(s.gr.Group, s.gr.Resource, operationNames[op]).Inc()
	}
}
