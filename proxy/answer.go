package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
)

// late is how old a change may be that is not in the kernel yet before the
// proxy counts as unhealthy.
const late = 2 * time.Minute

// deletionTaint is what the cluster autoscaler marks a node with that it is
// about to remove.
const deletionTaint = "ToBeDeletedByClusterAutoscaler"

// progress is how far the kernel's rules follow the API. It is safe for
// concurrent use.
type progress struct {
	mu sync.Mutex
	// waiting is when the oldest change came that is not applied, taken is
	// that of the changes being applied; zero for none.
	waiting, taken time.Time
	// applied is when the rules were last known to be right; zero before the
	// first time.
	applied time.Time

	queued             prometheus.Gauge
	last               prometheus.Gauge
	took               prometheus.Histogram
	services, endpoint prometheus.Counter
}

func newProgress() *progress {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &progress{
		queued: gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued"),
		last:   gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced"),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubeproxy_sync_proxy_rules_duration_seconds", Help: "SyncProxyRules latency in seconds",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		services: counter("kubeproxy_sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes"),
		endpoint: counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes"),
	}
}

// register gives the counts to a registry.
func (s *progress) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{s.queued, s.last, s.took, s.services, s.endpoint} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

// queue notes that there is something to apply.
func (s *progress) queue(now time.Time) {
	s.queued.Set(float64(now.UnixNano()) / 1e9)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting.IsZero() {
		s.waiting = now
	}
}

// take notes that what has been queued is being applied.
func (s *progress) take() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken.IsZero() {
		s.taken = s.waiting
	}
	s.waiting = time.Time{}
}

// done notes that what was taken is in the kernel, after so long. What failed
// is not done and stays taken.
func (s *progress) done(now time.Time, took time.Duration) {
	s.took.Observe(took.Seconds())
	s.last.Set(float64(now.UnixNano()) / 1e9)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.taken = now, time.Time{}
}

// healthy says whether the rules follow the API, and up to when they are
// right: now, if nothing waits.
func (s *progress) healthy(now time.Time) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := s.taken
	if oldest.IsZero() {
		oldest = s.waiting
	}
	switch {
	case s.applied.IsZero():
		return s.applied, false
	case oldest.IsZero():
		return now, true
	}
	return s.applied, now.Sub(oldest) < late
}

// Healthz answers load balancers and probes as kube-proxy does on its health
// port: /healthz, which fails also while the node is about to go, and /livez.
// node returns this node, nil while it is not known.
func (p *Proxy) Healthz(node func() *corev1.Node) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, more string, ok bool, updated, now time.Time) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, `{"lastUpdated": %q,"currentTime": %q%s}`, updated, now, more)
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		now := time.Now()
		updated, ok := p.progress.healthy(now)
		stays := eligible(node())
		answer(w, fmt.Sprintf(`, "nodeEligible": %v`, stays), ok && stays, updated, now)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		now := time.Now()
		updated, ok := p.progress.healthy(now)
		answer(w, "", ok, updated, now)
	})
	return mux
}

// eligible says that load balancers may go on sending to a node (KEP-3836).
func eligible(n *corev1.Node) bool {
	if n == nil {
		return true
	}
	for _, t := range n.Spec.Taints {
		if t.Key == deletionTaint {
			return false
		}
	}
	return n.DeletionTimestamp == nil
}

// Metrics answers as kube-proxy does on its metrics port: /metrics, /healthz
// and /proxyMode. Nothing is measured between requests.
func (p *Proxy) Metrics() (http.Handler, error) {
	r := prometheus.NewRegistry()
	err := errors.Join(p.progress.register(r), r.Register(collectors.NewGoCollector()),
		r.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
	if err != nil {
		return nil, fmt.Errorf("register the metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = io.WriteString(w, s)
		}
	}
	mux.Handle("/healthz", text("ok"))
	mux.Handle("/proxyMode", text("nftables"))
	return mux, nil
}

// Answer serves a handler at an address until ctx ends. An address that is
// taken, by another cluster's proxy perhaps, is no reason not to proxy: that
// is logged. An empty address serves nothing.
func Answer(ctx context.Context, log *slog.Logger, what, address string, h http.Handler) {
	if address == "" {
		return
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		log.Warn("the proxy goes on without its "+what, "address", address, "error", err)
		return
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 90 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Warn("the proxy goes on without its "+what, "address", address, "error", err)
	}
}
