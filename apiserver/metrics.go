package apiserver

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// metrics counts requests in upstream's names.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	series   sync.Map // of series -> *counted
}

// series is what a request is counted under, by its raw attributes: finding it
// so costs a tenth of what finding it by label values does.
type series struct {
	code                     int
	dry                      bool
	scope, verb, subresource string
	gvr                      schema.GroupVersionResource
}

// counted are the metrics of a series.
type counted struct {
	total    prometheus.Counter
	duration prometheus.Observer
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, []string{"code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, []string{"component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "authentication_attempts",
			Help: "Counter of authenticated attempts.",
		}, []string{"result"}),
	}
	m.registry.MustRegister(m.total, m.duration, m.refused, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// Metrics is the registry behind /metrics, for the process's other parts.
func (s *Server) Metrics() *prometheus.Registry { return s.metrics.registry }

func (m *metrics) unauthenticated() { m.refused.WithLabelValues("failure").Inc() }

// observe counts a finished request. Long-running ones have no duration.
func (m *metrics) observe(c *call, code int, err error, took time.Duration) {
	if err != nil {
		code = int(wire.Status(err).Code)
	}
	req := c.req
	at := series{code: code, dry: req.Options.DryRun, scope: "cluster", verb: string(req.Verb), subresource: req.Subresource, gvr: req.Resource}
	switch {
	case req.Name != "":
		at.scope = "resource"
	case req.Namespace != "":
		at.scope = "namespace"
	}
	v, ok := m.series.Load(at)
	if !ok {
		v, _ = m.series.LoadOrStore(at, m.counted(at))
	}
	n := v.(*counted)
	n.total.Inc()
	if n.duration != nil {
		n.duration.Observe(took.Seconds())
	}
}

func (m *metrics) counted(at series) *counted {
	verb, dry := verbNames[client.Verb(at.verb)], ""
	if verb == "" {
		verb = at.verb
	}
	if at.dry {
		dry = "All"
	}
	gvr := at.gvr
	n := &counted{total: m.total.WithLabelValues(strconv.Itoa(at.code), "apiserver", dry, gvr.Group, gvr.Resource, at.scope, at.subresource, verb, gvr.Version)}
	if at.verb != string(client.Watch) {
		n.duration = m.duration.WithLabelValues("apiserver", dry, gvr.Group, gvr.Resource, at.scope, at.subresource, verb, gvr.Version)
	}
	return n
}

var verbNames = map[client.Verb]string{
	client.Get: "GET", client.List: "LIST", client.Watch: "WATCH", client.Create: "POST", client.Update: "PUT",
	client.Patch: "PATCH", client.Delete: "DELETE", client.DeleteCollection: "DELETECOLLECTION",
}
