// Package metricset makes one collector of several.
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
