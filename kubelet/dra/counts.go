package dra

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

// counts are the metrics of claims on the node, under upstream's names.
type counts struct {
	whole, calls *prometheus.HistogramVec
	inUse        *prometheus.Desc
}

func newCounts() counts {
	buckets := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	return counts{
		whole: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dra_operations_duration_seconds", Buckets: buckets,
			Help: "Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation. The number of failed operations is provided through the histogram's overall count.",
		}, []string{"operation_name", "is_error"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dra_grpc_operations_duration_seconds", Help: "Duration in seconds of the DRA gRPC operations", Buckets: buckets,
		}, []string{"driver_name", "method_name", "grpc_status_code"}),
		inUse: prometheus.NewDesc("dra_resource_claims_in_use",
			"The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts is not the total number of in-use ResourceClaims because the same ResourceClaim might use devices from different drivers. Instead, use the count for the <any> driver_name.",
			[]string{"driver_name"}, nil),
	}
}

func (c *counts) did(operation string, took time.Duration, err error) {
	c.whole.WithLabelValues(operation, strconv.FormatBool(err != nil)).Observe(took.Seconds())
}

func (c *counts) called(driver, method string, took time.Duration, err error) {
	c.calls.WithLabelValues(driver, method, status.Code(err).String()).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (m *Manager) Describe(ch chan<- *prometheus.Desc) {
	m.counts.whole.Describe(ch)
	m.counts.calls.Describe(ch)
	ch <- m.counts.inUse
}

// Collect implements prometheus.Collector.
func (m *Manager) Collect(ch chan<- prometheus.Metric) {
	m.counts.whole.Collect(ch)
	m.counts.calls.Collect(ch)
	by := map[string]int{}
	m.mu.Lock()
	for _, c := range m.claims {
		by["<any>"]++
		for driver := range c.Devices {
			by[driver]++
		}
	}
	m.mu.Unlock()
	for driver, n := range by {
		ch <- prometheus.MustNewConstMetric(m.counts.inUse, prometheus.GaugeValue, float64(n), driver)
	}
}
