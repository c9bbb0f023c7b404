package flow

import (
	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "apiserver_flowcontrol_"

// metrics are in the names of upstream's metrics reference. What can be read
// off the levels is, when somebody asks; only times are recorded as they are
// measured.
type metrics struct {
	waits, runs *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: namespace + "request_wait_duration_seconds", Help: "[BETA] Length of time a request spent waiting in its queue",
			Buckets: []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
		}, []string{"execute", "flow_schema", "priority_level"}),
		runs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: namespace + "request_execution_seconds", Help: "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
			Buckets: []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
		}, []string{"flow_schema", "priority_level", "type"}),
	}
}

func (m *metrics) usage(schema, level string) *usage {
	return &usage{
		schema: schema,
		waited: m.waits.WithLabelValues("true", schema, level), refused: m.waits.WithLabelValues("false", schema, level),
		regular: m.runs.WithLabelValues(schema, level, "regular"), watches: m.runs.WithLabelValues(schema, level, "watch"),
	}
}

func (m *metrics) forget(schema, level string) {
	for _, v := range []string{"true", "false"} {
		m.waits.DeleteLabelValues(v, schema, level)
	}
	for _, v := range []string{"regular", "watch"} {
		m.runs.DeleteLabelValues(schema, level, v)
	}
}

func perSchema(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+name, help, append([]string{"flow_schema", "priority_level"}, more...), nil)
}

func perLevel(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+name, help, []string{"priority_level"}, nil)
}

// collector reads the levels off.
type collector struct {
	c *Controller

	dispatched, rejected, waiting, executing, seats *prometheus.Desc
	nominal, lower, upper, current, demand          *prometheus.Desc
}

// Collectors are what the controller's figures are registered by.
func (c *Controller) Collectors() []prometheus.Collector {
	return []prometheus.Collector{c.metrics.waits, c.metrics.runs, &collector{
		c:          c,
		dispatched: perSchema("dispatched_requests_total", "[BETA] Number of requests executed by API Priority and Fairness subsystem"),
		rejected:   perSchema("rejected_requests_total", "Number of requests rejected by API Priority and Fairness subsystem", "reason"),
		waiting:    perSchema("current_inqueue_requests", "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem"),
		executing:  perSchema("current_executing_requests", "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem"),
		seats:      perSchema("current_executing_seats", "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem"),
		nominal:    perLevel("nominal_limit_seats", "[BETA] Nominal number of execution seats configured for each priority level"),
		lower:      perLevel("lower_limit_seats", "[ALPHA] Configured lower bound on number of execution seats available to each priority level"),
		upper:      perLevel("upper_limit_seats", "[ALPHA] Configured upper bound on number of execution seats available to each priority level"),
		current:    perLevel("current_limit_seats", "[ALPHA] current derived number of execution seats available to each priority level"),
		demand:     perLevel("demand_seats_high_watermark", "[ALPHA] High watermark, over last adjustment period, of demand_seats"),
	}}
}

// Describe lists the figures.
func (r *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.dispatched, r.rejected, r.waiting, r.executing, r.seats, r.nominal, r.lower, r.upper, r.current, r.demand} {
		out <- d
	}
}

// Collect reads them.
func (r *collector) Collect(out chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	for name, p := range r.c.class.Load().pools {
		p.mu.Lock()
		nominal, lower, upper, limit, high := p.nominal, p.lower, p.upper, p.limit, p.high
		usages := make([]usage, 0, len(p.usages))
		for _, u := range p.usages {
			usages = append(usages, *u)
		}
		p.mu.Unlock()
		send(r.nominal, gauge, float64(nominal), name)
		send(r.lower, gauge, float64(lower), name)
		send(r.upper, gauge, float64(upper), name)
		send(r.current, gauge, float64(limit), name)
		send(r.demand, gauge, float64(high), name)
		for i := range usages {
			u := &usages[i]
			send(r.dispatched, counter, float64(u.dispatched), u.schema, name)
			send(r.waiting, gauge, float64(u.waiting), u.schema, name)
			send(r.executing, gauge, float64(u.executing), u.schema, name)
			send(r.seats, gauge, float64(u.seats), u.schema, name)
			for why := tooMany; why < reasons; why++ {
				if n := u.rejected[why]; n > 0 {
					send(r.rejected, counter, float64(n), u.schema, name, why.String())
				}
			}
		}
	}
}
