package audit

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/internal/metricset"
)

// Counts are the metrics of audit, in upstream's names. It is a
// prometheus.Collector, safe for concurrent use; a nil *Counts counts nothing.
type Counts struct {
	metricset.Set
	events, rejected prometheus.Counter
	errors, levels   *prometheus.CounterVec
	byLevel          map[auditv1.Level]prometheus.Counter
}

// NewCounts makes metrics that are all 0.
func NewCounts() *Counts {
	c := &Counts{
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_event_total", Help: "[ALPHA] Counter of audit events generated and sent to the audit backend.",
		}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_audit_requests_rejected_total", Help: "[ALPHA] Counter of apiserver requests rejected due to an error in audit logging backend.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_audit_error_total", Help: "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
		}, []string{"plugin"}),
		levels: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_audit_level_total", Help: "Counter of policy levels for audit events (1 per request).",
		}, []string{"level"}),
		byLevel: map[auditv1.Level]prometheus.Counter{},
	}
	c.Set = metricset.Set{c.events, c.rejected, c.errors, c.levels}
	for _, l := range []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse} {
		c.byLevel[l] = c.levels.WithLabelValues(string(l))
	}
	return c
}

func (c *Counts) decided(l auditv1.Level) {
	if c == nil {
		return
	}
	if n := c.byLevel[l]; n != nil {
		n.Inc()
	}
}

func (c *Counts) written() {
	if c != nil {
		c.events.Inc()
	}
}

func (c *Counts) refused() {
	if c != nil {
		c.rejected.Inc()
	}
}

func (c *Counts) lost(plugin string, n int) {
	if c != nil {
		c.errors.WithLabelValues(plugin).Add(float64(n))
	}
}

// Sink counts the events that s, the sink of a plugin ("log", "webhook"), does
// not take.
func (c *Counts) Sink(plugin string, s Sink) Sink {
	return SinkFunc(func(ev *auditv1.Event) error {
		err := s.Write(ev)
		if err != nil {
			c.lost(plugin, 1)
		}
		return err
	})
}

// Batches counts the events of the batches that s does not take.
func (c *Counts) Batches(plugin string, s BatchSink) BatchSink {
	return countedBatches{c, plugin, s}
}

type countedBatches struct {
	counts *Counts
	plugin string
	next   BatchSink
}

// WriteBatch implements BatchSink.
func (b countedBatches) WriteBatch(ctx context.Context, evs []*auditv1.Event) error {
	err := b.next.WriteBatch(ctx, evs)
	if err != nil {
		b.counts.lost(b.plugin, len(evs))
	}
	return err
}
