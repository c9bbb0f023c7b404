package main

import (
	_ "embed"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// featureList is what 1.36's API server says of its feature gates: a name, the
// stage and whether it is on by default in each line.
//
//go:embed features.txt
var featureList string

// featureMetrics tells which feature gates are on, for tools and tests that look
// there before they use a feature. on are those that were switched on.
type featureMetrics struct {
	on   []string
	desc *prometheus.Desc
}

func newFeatureMetrics(on []string) *featureMetrics {
	return &featureMetrics{on: on, desc: prometheus.NewDesc("kubernetes_feature_enabled",
		"[BETA] This metric records the data about the stage and enablement of a k8s feature.", []string{"name", "stage"}, nil)}
}

// Describe implements prometheus.Collector.
func (f *featureMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- f.desc }

// Collect implements prometheus.Collector.
func (f *featureMetrics) Collect(ch chan<- prometheus.Metric) {
	for line := range strings.Lines(featureList) {
		part := strings.Fields(line)
		name, stage, on := part[0], part[1], 0.0
		if part[2] == "1" || slices.Contains(f.on, name) {
			on = 1
		}
		if stage == "GA" { // which has no name there
			stage = ""
		}
		ch <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, on, name, stage)
	}
}
