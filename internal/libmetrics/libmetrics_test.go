package libmetrics

import (
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Only what is named comes over, with its labels, buckets and sums.
func TestCollector(t *testing.T) {
	theirs := prometheus.NewRegistry()
	took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Help: "Took.", Buckets: []float64{1, 2}})
	done := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "done_total", Help: "Done."}, []string{"how"})
	other := prometheus.NewCounter(prometheus.CounterOpts{Name: "other_total", Help: "Other."})
	theirs.MustRegister(took, done, other)

	ours := prometheus.NewRegistry()
	ours.MustRegister(New(theirs, "took_seconds", "done_total", "absent"))
	took.Observe(0.5)
	took.Observe(1.5)
	took.Observe(3)
	done.WithLabelValues("well").Add(2)
	done.WithLabelValues("badly").Inc()

	const want = `# HELP done_total Done.
# TYPE done_total counter
done_total{how="badly"} 1
done_total{how="well"} 2
# HELP took_seconds Took.
# TYPE took_seconds histogram
took_seconds_bucket{le="1"} 1
took_seconds_bucket{le="2"} 2
took_seconds_bucket{le="+Inf"} 3
took_seconds_sum 5
took_seconds_count 3
`
	w := httptest.NewRecorder()
	promhttp.HandlerFor(ours, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if got := w.Body.String(); got != want {
		t.Errorf("got %d:\n%s", w.Code, got)
	}
}
