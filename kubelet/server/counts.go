package server

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the metrics of the API's requests, under the names that
// upstream's kubelet has for them. They are safe for concurrent use.
type counts struct {
	inflight   *prometheus.GaugeVec
	requests   *prometheus.CounterVec
	took       *prometheus.HistogramVec
	websockets *prometheus.CounterVec
}

func newCounts() *counts {
	by := []string{"method", "path", "server_type", "long_running"}
	return &counts{
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_http_inflight_requests", Help: "Number of the inflight http requests"}, by),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_http_requests_total", Help: "Number of the http requests received since the server started",
		}, by),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_http_requests_duration_seconds", Help: "Duration in seconds to serve http requests", Buckets: prometheus.DefBuckets,
		}, by),
		websockets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_websocket_streaming_requests_total",
			Help: "Total number of WebSocket streaming requests (exec/attach/portforward) received by the kubelet.",
		}, []string{"subresource"}),
	}
}

func (c *counts) parts() []prometheus.Collector {
	return []prometheus.Collector{c.inflight, c.requests, c.took, c.websockets}
}

// streaming are the beginnings of paths whose requests last.
var streaming = []string{"attach", "exec", "portForward"}

// named are the beginnings of paths that metrics tell apart. What strangers
// ask for must not make series.
var named = append([]string{
	"checkpoint", "configz", "containerLogs", "flagz", "healthz", "logs", "metrics", "pods", "run", "runningpods", "stats", "statusz",
}, streaming...)

// request enters a request, which lasts until the returned function is called.
func (c *counts) request(r *http.Request) (done func()) {
	begun := time.Now()
	path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !slices.Contains(named, path) {
		path = "other"
	}
	method := r.Method
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut}, method) {
		method = "other"
	}
	lasts := slices.Contains(streaming, path)
	if lasts && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		c.websockets.WithLabelValues(strings.ToLower(path)).Inc()
	}
	labels := []string{method, path, "readwrite", strconv.FormatBool(lasts)}
	c.requests.WithLabelValues(labels...).Inc()
	open := c.inflight.WithLabelValues(labels...)
	open.Inc()
	return func() {
		open.Dec()
		c.took.WithLabelValues(labels...).Observe(time.Since(begun).Seconds())
	}
}
