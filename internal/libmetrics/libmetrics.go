// Package libmetrics shows, among a server's own metrics, chosen ones of those
// that Kubernetes' libraries keep in a registry of theirs.
package libmetrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// CEL are the metrics of the libraries' work on the rules of custom resources,
// and of the libraries' registry itself.
var CEL = [...]string{
	"apiserver_cel_compilation_duration_seconds", "apiserver_cel_evaluation_duration_seconds",
	"disabled_metrics_total", "hidden_metrics_total", "registered_metrics_total",
}

// Collector collects the counters and histograms of the given names from
// another registry, for as long as that one has them. It describes none in
// advance, so that they need not be there when it is registered; it is safe for
// concurrent use if from is.
type Collector struct {
	from  prometheus.Gatherer
	names []string
}

// New collects the names from another registry, which is asked whenever the
// collector is.
func New(from prometheus.Gatherer, names ...string) *Collector {
	return &Collector{from: from, names: names}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. What another metric of that registry
// fails with does not hide those that are asked for.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	families, _ := c.from.Gather()
	for _, f := range families {
		if !slices.Contains(c.names, f.GetName()) {
			continue
		}
		for _, m := range f.Metric {
			labels := prometheus.Labels{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			desc := prometheus.NewDesc(f.GetName(), f.GetHelp(), nil, labels)
			switch {
			case m.Counter != nil:
				ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, m.Counter.GetValue())
			case m.Histogram != nil:
				buckets := map[float64]uint64{}
				for _, b := range m.Histogram.Bucket {
					buckets[b.GetUpperBound()] = b.GetCumulativeCount()
				}
				ch <- prometheus.MustNewConstHistogram(desc, m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum(), buckets)
			}
		}
	}
}
