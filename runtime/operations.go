package runtime

import (
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/internal/metricset"
)

// Operations are the metrics of the calls to a runtime, under the names that
// upstream's kubelet has for them. It is a prometheus.Collector, safe for
// concurrent use.
type Operations struct {
	metricset.Set
	total, failed *prometheus.CounterVec
	took          *prometheus.HistogramVec
}

func newOperations() *Operations {
	by := []string{"operation_type"}
	o := &Operations{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_total", Help: "Cumulative number of runtime operations by operation type.",
		}, by),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_errors_total", Help: "Cumulative number of runtime operation errors by operation type.",
		}, by),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_runtime_operations_duration_seconds", Help: "Duration in seconds of runtime operations. Broken down by operation type.",
			Buckets: prometheus.ExponentialBuckets(.005, 2.5, 14),
		}, by),
	}
	o.Set = metricset.Set{o.total, o.failed, o.took}
	return o
}

// count enters one call of a CRI method; others are not operations.
func (o *Operations) count(method string, took time.Duration, err error) {
	name := operation(method)
	if name == "" {
		return
	}
	o.total.WithLabelValues(name).Inc()
	o.took.WithLabelValues(name).Observe(took.Seconds())
	if err != nil {
		o.failed.WithLabelValues(name).Inc()
	}
}

// operation is what metrics call a CRI method, "" for what is none: words in
// lower case with _ between, a pod sandbox being one word.
func operation(method string) string {
	service, name, ok := strings.Cut(strings.TrimPrefix(method, "/runtime.v1."), "/")
	if !ok || service != "RuntimeService" && service != "ImageService" {
		return ""
	}
	if name == "UpdateContainerResources" {
		return "update_container"
	}
	var out strings.Builder
	for i, r := range strings.Replace(name, "PodSandbox", "Podsandbox", 1) {
		if unicode.IsUpper(r) && i > 0 {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

// Operations returns the metrics of the calls through CRI.
func (r *Runtime) Operations() *Operations { return r.operations }
