package store

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/internal/metricset"
)

// Durations measure what is asked of etcd, and count what it tells, in
// upstream's names. It is a prometheus.Collector, safe for concurrent use; a nil
// *Durations measures nothing.
type Durations struct {
	metricset.Set
	requests *prometheus.HistogramVec
	events   *prometheus.CounterVec
}

// NewDurations makes measures of nothing yet.
func NewDurations() *Durations {
	d := &Durations{requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "etcd_request_duration_seconds",
		Help:    "Etcd request latency in seconds for each operation and object type.",
		Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
	}, []string{"group", "operation", "resource"}), events: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "apiserver_storage_events_received_total",
		Help: "Number of etcd events received split by kind.",
	}, []string{"group", "resource"})}
	d.Set = metricset.Set{d.requests, d.events}
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

// stopwatch measures what is asked of etcd for one kind. A measure is made when
// it is first needed: most kinds are never written.
type stopwatch struct {
	of  *Durations
	gr  schema.GroupResource
	per [operations]atomic.Pointer[prometheus.Observer]
	got atomic.Pointer[prometheus.Counter]
}

// received notes that etcd told of so many events.
func (s *stopwatch) received(n int) {
	if s.of == nil {
		return
	}
	c := s.got.Load()
	if c == nil {
		made := s.of.events.WithLabelValues(s.gr.Group, s.gr.Resource)
		c = &made
		s.got.Store(c)
	}
	(*c).Add(float64(n))
}

// since notes that an operation which began then has ended.
func (s *stopwatch) since(op operation, begin time.Time) {
	if s.of == nil {
		return
	}
	o := s.per[op].Load()
	if o == nil {
		made := s.of.requests.WithLabelValues(s.gr.Group, operationNames[op], s.gr.Resource)
		o = &made
		s.per[op].Store(o)
	}
	(*o).Observe(time.Since(begin).Seconds())
}
