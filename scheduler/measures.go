package scheduler

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/internal/metricset"
)

// measures are what scheduling itself is measured by, in upstream's names (the
// page "Kubernetes Metrics Reference"). How long a plugin takes is not among
// them: what filters and scores say is kept for all pods of one shape, and
// found without asking them again. A nil *measures measures nothing.
type measures struct {
	metricset.Set
	attempts, incoming   *prometheus.CounterVec
	took, points, waited *prometheus.HistogramVec
	algorithm, tries     prometheus.Histogram
	preemptions          prometheus.Counter
	victims              prometheus.Histogram
	of                   atomic.Pointer[Scheduler] // who runs, nil while nobody does

	pending, unschedulable, cached, goroutines *prometheus.Desc
}

func newMeasures() *measures {
	counter, histogram := metricset.Counters, metricset.Histograms
	one := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &measures{
		attempts: counter("scheduler_schedule_attempts_total", "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
			"profile", "result"),
		took: histogram("scheduler_scheduling_attempt_duration_seconds", "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
			prometheus.ExponentialBuckets(0.001, 2, 15), "profile", "result"),
		algorithm: one("scheduler_scheduling_algorithm_duration_seconds", "[ALPHA] Scheduling algorithm latency in seconds", prometheus.ExponentialBuckets(0.001, 2, 15)),
		points: histogram("scheduler_framework_extension_point_duration_seconds", "[STABLE] Latency for running all plugins of a specific extension point.",
			prometheus.ExponentialBuckets(0.0001, 2, 12), "extension_point", "profile", "status"),
		tries: one("scheduler_pod_scheduling_attempts", "[STABLE] Number of attempts to successfully schedule a pod.", prometheus.ExponentialBuckets(1, 2, 5)),
		waited: histogram("scheduler_pod_scheduling_sli_duration_seconds", "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
			prometheus.ExponentialBuckets(0.01, 2, 20), "attempts"),
		preemptions: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total", Help: "[STABLE] Total preemption attempts in the cluster till now"}),
		victims:     one("scheduler_preemption_victims", "[STABLE] Number of selected preemption victims", prometheus.ExponentialBuckets(1, 2, 7)),
		incoming: counter("scheduler_queue_incoming_pods_total", "[STABLE] Number of pods added to scheduling queues by event and queue type.",
			"event", "queue"),
		pending: prometheus.NewDesc("scheduler_pending_pods", "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
			[]string{"queue"}, nil),
		unschedulable: prometheus.NewDesc("scheduler_unschedulable_pods", "[BETA] The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin.",
			[]string{"plugin", "profile"}, nil),
		cached:     prometheus.NewDesc("scheduler_cache_size", "[ALPHA] Number of nodes, pods, and assumed (bound) pods in the scheduler cache.", []string{"type"}, nil),
		goroutines: prometheus.NewDesc("scheduler_goroutines", "[BETA] Number of running goroutines split by the work they do such as binding.", []string{"operation"}, nil),
	}
	m.Set = metricset.Set{m.attempts, m.took, m.algorithm, m.points, m.tries, m.waited, m.preemptions, m.victims, m.incoming}
	return m
}

// Describe implements prometheus.Collector.
func (m *measures) Describe(ch chan<- *prometheus.Desc) {
	m.Set.Describe(ch)
	for _, d := range []*prometheus.Desc{m.pending, m.unschedulable, m.cached, m.goroutines} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What can be read off the scheduler
// is, while there is one that runs.
func (m *measures) Collect(ch chan<- prometheus.Metric) {
	m.Set.Collect(ch)
	s := m.of.Load()
	if s == nil {
		return
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	c := s.queue.census()
	for name, n := range map[string]int{"active": c.active, "backoff": c.backoff, "unschedulable": c.unschedulable, "gated": c.gated} {
		gauge(m.pending, n, name)
	}
	for at, n := range c.refused {
		gauge(m.unschedulable, n, at.plugin, at.profile)
	}
	s.mu.Lock()
	nodes, pods := len(s.snapshot.nodes), len(s.snapshot.where)-len(s.nominated)
	s.mu.Unlock()
	gauge(m.cached, nodes, "nodes")
	gauge(m.cached, pods, "pods")
	gauge(m.goroutines, len(s.binding), "binding")
}

// runs notes who runs, until the returned function is called.
func (m *measures) runs(s *Scheduler) (ended func()) {
	if m == nil {
		return func() {}
	}
	m.of.Store(s)
	return func() { m.of.CompareAndSwap(s, nil) }
}

// decided measures the search for a node.
func (m *measures) decided(took time.Duration) {
	if m != nil {
		m.algorithm.Observe(took.Seconds())
	}
}

// attempted counts an attempt that came to a result: "scheduled",
// "unschedulable" or "error".
func (m *measures) attempted(profile, result string, took time.Duration) {
	if m == nil {
		return
	}
	m.attempts.WithLabelValues(profile, result).Inc()
	m.took.WithLabelValues(profile, result).Observe(took.Seconds())
}

// point measures one of the framework's extension points; status is "Success",
// "Unschedulable" or "Error".
func (m *measures) point(name, profile, status string, took time.Duration) {
	if m != nil {
		m.points.WithLabelValues(name, profile, status).Observe(took.Seconds())
	}
}

// scheduled counts a pod that has its node, after so many attempts and so long
// after it came.
func (m *measures) scheduled(attempts int, since time.Duration) {
	if m == nil {
		return
	}
	m.tries.Observe(float64(attempts))
	label := strconv.Itoa(attempts)
	if attempts >= 16 {
		label = "16+"
	}
	m.waited.WithLabelValues(label).Observe(since.Seconds())
}

// preempted counts a look for room that others could make; plan is nil if they
// could not.
func (m *measures) preempted(plan *Preemption) {
	if m == nil {
		return
	}
	m.preemptions.Inc()
	chosen := 0
	if plan != nil {
		for _, v := range plan.Victims {
			if v.DeletionTimestamp == nil { // else it was chosen before
				chosen++
			}
		}
	}
	if chosen > 0 {
		m.victims.Observe(float64(chosen))
	}
}

// entered counts a pod that comes into a part of the queue, and why.
func (m *measures) entered(event, queue string) {
	if m != nil {
		m.incoming.WithLabelValues(event, queue).Inc()
	}
}
