package controllers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/internal/metricset"
)

// Counts are what controllers count beyond their loops, under upstream's
// names (the page "Kubernetes Metrics Reference"). It is a
// prometheus.Collector, safe for concurrent use; a nil *Counts counts nothing.
type Counts struct {
	metricset.Set
	skew                                    prometheus.Histogram
	jobs, evictions, claims                 *prometheus.CounterVec
	taintDeletions, deviceDeletions         prometheus.Counter
	ephemeralCreates, ephemeralCreateErrors prometheus.Counter
}

// NewCounts returns counts of nothing yet.
func NewCounts() *Counts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	c := &Counts{
		skew: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "cronjob_controller_job_creation_skew_duration_seconds",
			Help:    "Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		jobs:                  vector("job_controller_jobs_finished_total", "The number of finished jobs", "completion_mode", "reason", "result"),
		evictions:             vector("node_collector_evictions_total", "Number of Node evictions that happened since current instance of NodeController started.", "zone"),
		claims:                vector("resourceclaim_controller_creates_total", "Number of ResourceClaims creation requests, categorized by creation status", "status"),
		taintDeletions:        counter("taint_eviction_controller_pod_deletions_total", "Total number of Pods deleted by TaintEvictionController since its start."),
		deviceDeletions:       counter("device_taint_eviction_controller_pod_deletions_total", "Total number of Pods deleted by DeviceTaintEvictionController since its start."),
		ephemeralCreates:      counter("ephemeral_volume_controller_create_total", "Number of PersistentVolumeClaim creation requests"),
		ephemeralCreateErrors: counter("ephemeral_volume_controller_create_failures_total", "Number of PersistentVolumeClaim creation requests that failed"),
	}
	c.Set = metricset.Set{c.skew, c.jobs, c.evictions, c.claims, c.taintDeletions, c.deviceDeletions, c.ephemeralCreates, c.ephemeralCreateErrors}
	return c
}

// CronJobStarted counts a cron job's Job that was made so long after its time.
func (c *Counts) CronJobStarted(late time.Duration) {
	if c != nil {
		c.skew.Observe(late.Seconds())
	}
}

// JobFinished counts a Job that has ended: its completion mode ("NonIndexed" or
// "Indexed"), whether it succeeded, and the reason of the condition that says
// so ("" for one that simply succeeded).
func (c *Counts) JobFinished(mode, reason string, succeeded bool) {
	if c == nil {
		return
	}
	result := "failed"
	if succeeded {
		result = "succeeded"
	}
	c.jobs.WithLabelValues(mode, reason, result).Inc()
}

// NodeEvicted counts a node of a zone from which pods are evicted.
func (c *Counts) NodeEvicted(zone string) {
	if c != nil {
		c.evictions.WithLabelValues(zone).Inc()
	}
}

// PodEvicted counts a pod deleted for a taint of its node, or of its device.
func (c *Counts) PodEvicted(forDevice bool) {
	switch {
	case c == nil:
	case forDevice:
		c.deviceDeletions.Inc()
	default:
		c.taintDeletions.Inc()
	}
}

// VolumeClaimMade counts an ephemeral volume's claim, made or refused.
func (c *Counts) VolumeClaimMade(err error) {
	if c == nil {
		return
	}
	c.ephemeralCreates.Inc()
	if err != nil {
		c.ephemeralCreateErrors.Inc()
	}
}

// ResourceClaimMade counts a pod's resource claim, made or refused.
func (c *Counts) ResourceClaimMade(err error) {
	if c == nil {
		return
	}
	status := "success"
	if err != nil {
		status = "failure"
	}
	c.claims.WithLabelValues(status).Inc()
}
