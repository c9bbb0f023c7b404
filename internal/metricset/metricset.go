// Package metricset makes metrics, and one collector of several.
package metricset

import "github.com/prometheus/client_golang/prometheus"

// Set is a prometheus.Collector of all that its parts collect. It is meant to
// be embedded by what counts with them, and is safe for concurrent use once it
// is filled.
type Set []prometheus.Collector

// Describe implements prometheus.Collector.
func (s Set) Describe(ch chan<- *prometheus.Desc) {
	for _, part := range s {
		part.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s Set) Collect(ch chan<- prometheus.Metric) {
	for _, part := range s {
		part.Collect(ch)
	}
}

// Counters makes counters of one name, told apart by labels. It panics if the
// name or a label is none.
func Counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// Histograms makes histograms of one name, told apart by labels. It panics if
// the name or a label is none, or the buckets' upper bounds do not ascend.
func Histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}
