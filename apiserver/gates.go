package apiserver

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/metricset"
)

// gates counts what requests pass before and while they are carried out, in
// upstream's names. What is counted for every request is found without labels.
type gates struct {
	metricset.Set
	attempts, users, decisions, events *prometheus.CounterVec
	authn, authz, steps, plugins       *prometheus.HistogramVec
	watchLists, eventSizes             *prometheus.HistogramVec
	handshakes                         prometheus.Counter
	longRunning, inFlight, old         *prometheus.GaugeVec
	known, unknown, nameless           outcome
	allowed, denied, unmoved, lost     outcome
	reading, writing                   prometheus.Gauge
	step                               map[admission.Operation]*[phases][2]prometheus.Observer

	// Of requests on another's behalf (KEP-5284), as a whole and by what
	// authorizers were asked about them.
	imps, asked         *prometheus.CounterVec
	impsTook, askedTook *prometheus.HistogramVec
}

// outcome is one result of a gate.
type outcome struct {
	count prometheus.Counter
	took  prometheus.Observer
}

func (o *outcome) add(took time.Duration) {
	o.count.Inc()
	o.took.Observe(took.Seconds())
}

func newGates() *gates {
	counter, histogram := metricset.Counters, metricset.Histograms
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	from1ms := prometheus.ExponentialBuckets(0.001, 2, 15)
	g := &gates{
		attempts:  counter("authentication_attempts", "[ALPHA] Counter of authenticated attempts.", "result"),
		users:     counter("authenticated_user_requests", "[ALPHA] Counter of authenticated requests broken out by username.", "username"),
		decisions: counter("authorization_attempts_total", "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.", "result"),
		events:    counter("apiserver_watch_events_total", "[ALPHA] Number of events sent in watch clients", "group", "resource", "version"),
		authn:     histogram("authentication_duration_seconds", "[ALPHA] Authentication duration in seconds broken out by result.", from1ms, "result"),
		authz:     histogram("authorization_duration_seconds", "[ALPHA] Authorization duration in seconds broken out by result.", from1ms, "result"),
		steps: histogram("apiserver_admission_step_admission_duration_seconds", "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
			[]float64{0.005, 0.025, 0.1, 0.5, 1, 2.5}, "operation", "rejected", "type"),
		plugins: histogram("apiserver_admission_controller_admission_duration_seconds", "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
			[]float64{0.005, 0.025, 0.1, 0.5, 1, 2.5}, "name", "operation", "rejected", "type"),
		watchLists: histogram("apiserver_watch_list_duration_seconds", "[BETA] Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.",
			[]float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60}, "group", "resource", "scope", "version"),
		eventSizes: histogram("apiserver_watch_events_sizes", "[ALPHA] Watch event size distribution in bytes", prometheus.ExponentialBuckets(1024, 2, 8), "group", "resource", "version"),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_tls_handshake_errors_total", Help: "[ALPHA] Number of requests dropped with 'TLS handshake error from' error"}),
		longRunning: gauge("apiserver_longrunning_requests", "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
			"component", "group", "resource", "scope", "subresource", "verb", "version"),
		inFlight: gauge("apiserver_current_inflight_requests", "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.", "request_kind"),
		old: gauge("apiserver_requested_deprecated_apis", "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
			"group", "removed_release", "resource", "subresource", "version"),
		imps:      counter("apiserver_impersonation_attempts_total", "[ALPHA] Total number of impersonation attempts split by mode and decision.", "decision", "mode"),
		asked:     counter("apiserver_impersonation_authorization_attempts_total", "[ALPHA] Total number of authorization checks made by the impersonation handler split by mode and decision.", "decision", "mode"),
		impsTook:  histogram("apiserver_impersonation_attempts_duration_seconds", "[ALPHA] Latency of impersonation attempts in seconds split by mode and decision.", from1ms, "decision", "mode"),
		askedTook: histogram("apiserver_impersonation_authorization_attempts_duration_seconds", "[ALPHA] Latency of authorization checks made by the impersonation handler in seconds split by mode and decision.", from1ms, "decision", "mode"),
		step:      map[admission.Operation]*[phases][2]prometheus.Observer{},
	}
	g.Set = metricset.Set{g.attempts, g.users, g.decisions, g.events, g.authn, g.authz, g.steps, g.plugins, g.watchLists, g.eventSizes, g.handshakes, g.longRunning, g.inFlight, g.old,
		g.imps, g.asked, g.impsTook, g.askedTook}
	g.known = outcome{g.attempts.WithLabelValues("success"), g.authn.WithLabelValues("success")}
	g.unknown = outcome{g.attempts.WithLabelValues("error"), g.authn.WithLabelValues("error")}
	g.nameless = outcome{g.attempts.WithLabelValues("failure"), g.authn.WithLabelValues("failure")}
	g.allowed = outcome{g.decisions.WithLabelValues("allowed"), g.authz.WithLabelValues("allowed")}
	g.denied = outcome{g.decisions.WithLabelValues("denied"), g.authz.WithLabelValues("denied")}
	g.unmoved = outcome{g.decisions.WithLabelValues("no-opinion"), g.authz.WithLabelValues("no-opinion")}
	g.lost = outcome{g.decisions.WithLabelValues("error"), g.authz.WithLabelValues("error")}
	g.reading, g.writing = g.inFlight.WithLabelValues("readOnly"), g.inFlight.WithLabelValues("mutating")
	for _, op := range []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect} {
		g.step[op] = &[phases][2]prometheus.Observer{
			{g.steps.WithLabelValues(string(op), "false", "admit"), g.steps.WithLabelValues(string(op), "true", "admit")},
			{g.steps.WithLabelValues(string(op), "false", "validate"), g.steps.WithLabelValues(string(op), "true", "validate")},
		}
	}
	return g
}

// authenticated counts a user under a name of which there are few.
func (g *gates) authenticated(user string, took time.Duration) {
	g.known.add(took)
	switch {
	case user == "admin", user == "client", user == "kube_proxy", user == "kubelet", user == "system:serviceaccount:kube-system:default":
	case strings.Contains(user, "@"):
		user = "email_id"
	default:
		user = "other"
	}
	g.users.WithLabelValues(user).Inc()
}

// unauthenticated counts a request of nobody knows whom: one whose credentials
// are wrong (err), or one without any.
func (g *gates) unauthenticated(err error, took time.Duration) {
	if err != nil {
		g.unknown.add(took)
		return
	}
	g.nameless.add(took)
}

// impersonated counts a request on another's behalf; mode is the way that
// allowed it, "" if none did.
func (g *gates) impersonated(mode string, took time.Duration) {
	decision := "allowed"
	if mode == "" {
		decision = "denied"
	}
	g.imps.WithLabelValues(decision, mode).Inc()
	g.impsTook.WithLabelValues(decision, mode).Observe(took.Seconds())
}

// impersonating counts what an authorizer was asked about a way; err is nil if
// it allows it.
func (g *gates) impersonating(mode string, err error, took time.Duration) {
	decision := "allowed"
	if err != nil {
		decision = "denied"
	}
	g.asked.WithLabelValues(decision, mode).Inc()
	g.askedTook.WithLabelValues(decision, mode).Observe(took.Seconds())
}

// admitted counts a phase of admission.
func (g *gates) admitted(op admission.Operation, phase int, err error, took time.Duration) {
	s, rejected := g.step[op], 0
	if err != nil {
		rejected = 1
	}
	if s != nil {
		s[phase][rejected].Observe(took.Seconds())
	}
}

// begun counts a request that has one answer until its end.
func (g *gates) begun(v client.Verb) (end func()) {
	kind := g.writing
	if v == client.Get || v == client.List {
		kind = g.reading
	}
	kind.Inc()
	return kind.Dec
}

// running counts a request that has no one answer until its end.
func (g *gates) running(c *call) (end func()) {
	at := seriesOf(c)
	if c.req.Verb != client.Watch {
		at.verb = "CONNECT"
	}
	n := g.longRunning.WithLabelValues(at.labels()...)
	n.Inc()
	return n.Dec
}

// listed counts a watch that has sent what there was when it began.
func (g *gates) listed(c *call, took time.Duration) {
	at := seriesOf(c)
	g.watchLists.WithLabelValues(at.gvr.Group, at.gvr.Resource, at.scope, at.gvr.Version).Observe(took.Seconds())
}

// sent are the metrics of the events of a stream of the resource's.
func (g *gates) sent(gvr schema.GroupVersionResource) (n prometheus.Counter, size prometheus.Observer) {
	return g.events.WithLabelValues(gvr.Group, gvr.Resource, gvr.Version), g.eventSizes.WithLabelValues(gvr.Group, gvr.Resource, gvr.Version)
}

// deprecated notes that a deprecated version was asked for; text is the warning
// that its users get.
func (g *gates) deprecated(gvr schema.GroupVersionResource, subresource, text string) {
	g.old.WithLabelValues(gvr.Group, removedIn(text), gvr.Resource, subresource, gvr.Version).Set(1)
}

// removedIn is the release ("1.22") that a warning of deprecation says the
// version is gone in; "" if it says none.
func removedIn(text string) string {
	_, rest, ok := strings.Cut(text, "unavailable in v")
	if !ok {
		return ""
	}
	release, _, ok := strings.Cut(rest, "+")
	if !ok {
		return ""
	}
	return release
}
