package audit

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// TestCounts: every request has a level, every record is counted, and so is
// what was lost and by whom.
func TestCounts(t *testing.T) {
	c := NewCounts()
	policy := mustPolicy(t, policyYAML)
	full := errors.New("the disk is full")
	var broken error
	sink := c.Sink("log", SinkFunc(func(*auditv1.Event) error { return broken }))
	l := New(policy, sink, time.Now, nil)
	l.Count(c)
	l.Begin(&Request{Path: "/healthz"})
	secret := &Request{Resource: "secrets", Verb: "get"}
	l.Begin(secret).End(200, nil)
	broken = full
	l.Strict()
	if rec := l.Begin(secret); rec.Lost() == nil {
		t.Error("a record that was lost is not missed")
	}
	webhook := c.Batches("webhook", batchFunc(func([]*auditv1.Event) error { return full }))
	if err := webhook.WriteBatch(t.Context(), make([]*auditv1.Event, 3)); err != full {
		t.Error(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`apiserver_audit_error_total{plugin="log"} 1`,
		`apiserver_audit_error_total{plugin="webhook"} 3`,
		`apiserver_audit_event_total 3`,
		`apiserver_audit_level_total{level="Metadata"} 2`,
		`apiserver_audit_level_total{level="None"} 1`,
		`apiserver_audit_level_total{level="RequestResponse"} 0`,
		`apiserver_audit_requests_rejected_total 1`,
	} {
		if !strings.Contains(rec.Body.String(), line+"\n") {
			t.Errorf("no %s in\n%s", line, rec.Body)
		}
	}
}

type batchFunc func([]*auditv1.Event) error

func (f batchFunc) WriteBatch(_ context.Context, evs []*auditv1.Event) error { return f(evs) }
