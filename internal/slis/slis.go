// Package slis counts what health checks say: results go in, /metrics/slis
// comes out (the page "Kubernetes Component SLI Metrics").
package slis

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Results are those of one component's checks. They have a registry of their
// own, since they are read far more often than other metrics. They are safe for
// concurrent use.
type Results struct {
	handler http.Handler
	latest  *prometheus.GaugeVec
	total   *prometheus.CounterVec
}

// New makes results of nothing yet.
func New() *Results {
	s := &Results{
		latest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubernetes_healthcheck", Help: "This metric records the result of a single healthcheck.",
		}, []string{"name", "type"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubernetes_healthchecks_total", Help: "This metric records the results of all healthcheck.",
		}, []string{"name", "status", "type"}),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.latest, s.total)
	s.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return s
}

// Observe counts what a check said when an endpoint ("readyz") ran it; nil is
// success.
func (s *Results) Observe(endpoint, check string, err error) {
	status, good := "success", 1.0
	if err != nil {
		status, good = "error", 0
	}
	s.latest.WithLabelValues(check, endpoint).Set(good)
	s.total.WithLabelValues(check, status, endpoint).Inc()
}

// ServeHTTP answers with the results so far.
func (s *Results) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }
