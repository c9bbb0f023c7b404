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
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// metrics counts requests in upstream's names.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	sli      *prometheus.HistogramVec
	sizes    *prometheus.HistogramVec
	own      *prometheus.CounterVec
	series   sync.Map // of series -> *counted
	gates    *gates
}

// series is what a request is counted under, by its raw attributes: finding it
// so costs a tenth of what finding it by label values does.
type series struct {
	code                     int
	dry                      bool
	scope, verb, subresource string
	gvr                      schema.GroupVersionResource
	inside                   bool // by a component of the server's own
}

// counted are the metrics of a series.
type counted struct {
	total    prometheus.Counter
	duration prometheus.Observer
	sli      prometheus.Observer
	size     prometheus.Observer // nil but for reads
	own      prometheus.Counter  // nil but for requests from inside
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, []string{"code", "component", "dry_run", "group", "resource", "scope", "subresource", "system_client", "verb", "version"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, []string{"component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"}),
		sli: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_sli_duration_seconds",
			Help:    "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, []string{"component", "group", "resource", "scope", "subresource", "verb", "version"}),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_response_sizes",
			Help:    "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
			Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, []string{"component", "group", "resource", "scope", "subresource", "verb", "version"}),
		own: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_selfrequest_total",
			Help: "[ALPHA] Counter of apiserver self-requests broken out for each verb, API resource and subresource.",
		}, []string{"group", "resource", "subresource", "verb"}),
		gates: newGates(),
	}
	m.registry.MustRegister(m.total, m.duration, m.sli, m.sizes, m.own, m.gates, collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsAll)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// Metrics is the registry behind /metrics, for the process's other parts.
func (s *Server) Metrics() *prometheus.Registry { return s.metrics.registry }

// observe counts a finished request. Long-running ones have no duration.
func (m *metrics) observe(c *call, code int, err error, took time.Duration) {
	if err != nil {
		code = int(wire.Status(err).Code)
	}
	if c.front != nil && code != http.StatusForbidden && c.res.view != nil && c.res.view.Deprecated != "" {
		m.gates.deprecated(c.req.Resource, c.req.Subresource, c.res.view.Deprecated)
	}
	at := seriesOf(c)
	at.code = code
	v, ok := m.series.Load(at)
	if !ok {
		v, _ = m.series.LoadOrStore(at, m.counted(at))
	}
	n := v.(*counted)
	c.counted = n
	n.total.Inc()
	if n.own != nil {
		n.own.Inc()
	}
	if n.duration != nil {
		n.duration.Observe(took.Seconds())
		n.sli.Observe((took - c.waited).Seconds())
	}
}

// seriesOf is what a request is counted under, but for its outcome.
func seriesOf(c *call) series {
	req := c.req
	at := series{dry: req.Options.DryRun, scope: "cluster", verb: string(req.Verb), subresource: req.Subresource, gvr: req.Resource, inside: c.front == nil}
	if req.PatchType == types.ApplyYAMLPatchType {
		at.verb = "APPLY"
	}
	switch {
	case req.Name != "", req.Verb == client.Create:
		at.scope = "resource"
	case req.Namespace != "":
		at.scope = "namespace"
	}
	return at
}

// component is who carries a request out, in upstream's words: nobody, if it is
// for no resource.
func (at *series) component() string {
	if at.gvr.Resource == "" {
		return ""
	}
	return "apiserver"
}

// checked counts a finished request for the server's health; path is one of few.
func (m *metrics) checked(path string, code int, took time.Duration) {
	at := series{code: code, verb: http.MethodGet, subresource: path}
	v, ok := m.series.Load(at)
	if !ok {
		v, _ = m.series.LoadOrStore(at, m.counted(at))
	}
	n := v.(*counted)
	n.total.Inc()
	n.duration.Observe(took.Seconds())
	n.sli.Observe(took.Seconds())
}

// labels are those that all metrics of requests have.
func (at *series) labels() []string {
	verb := verbNames[client.Verb(at.verb)]
	if verb == "" {
		verb = at.verb
	}
	return []string{at.component(), at.gvr.Group, at.gvr.Resource, at.scope, at.subresource, verb, at.gvr.Version}
}

func (m *metrics) counted(at series) *counted {
	l, gvr, dry, system := at.labels(), at.gvr, "", ""
	verb := l[5]
	if at.dry {
		dry = "All"
	}
	if at.inside {
		system = "kube-apiserver"
	}
	n := &counted{total: m.total.WithLabelValues(strconv.Itoa(at.code), l[0], dry, gvr.Group, gvr.Resource, at.scope, at.subresource, system, verb, gvr.Version)}
	if at.verb != string(client.Watch) {
		n.duration = m.duration.WithLabelValues(l[0], dry, gvr.Group, gvr.Resource, at.scope, at.subresource, verb, gvr.Version)
		n.sli = m.sli.WithLabelValues(l...)
	}
	if at.inside {
		n.own = m.own.WithLabelValues(gvr.Group, gvr.Resource, at.subresource, verb)
	}
	if v := client.Verb(at.verb); v == client.Get || v == client.List {
		n.size = m.sizes.WithLabelValues(l...)
	}
	return n
}

var verbNames = map[client.Verb]string{
	client.Get: "GET", client.List: "LIST", client.Watch: "WATCH", client.Create: "POST", client.Update: "PUT",
	client.Patch: "PATCH", client.Delete: "DELETE", client.DeleteCollection: "DELETE", // told apart by the scope
}
