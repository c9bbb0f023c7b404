package webhooks

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/internal/metricset"
)

// Counts are the metrics of webhooks, in upstream's names and with its names of
// the two phases, which are not the same everywhere (see "Dynamic Admission
// Control" and the metrics reference). It is a prometheus.Collector, safe for
// concurrent use; a nil *Counts counts nothing.
type Counts struct {
	metricset.Set
	took, conditions                    *prometheus.HistogramVec
	asked, refused, passedOver, skipped *prometheus.CounterVec
}

// NewCounts makes counts of nothing yet.
func NewCounts() *Counts {
	counter, histogram := metricset.Counters, metricset.Histograms
	c := &Counts{
		took: histogram("apiserver_admission_webhook_admission_duration_seconds", "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
			[]float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25}, "name", "operation", "rejected", "type"),
		asked: counter("apiserver_admission_webhook_request_total", "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
			"code", "name", "operation", "rejected", "type"),
		refused: counter("apiserver_admission_webhook_rejection_count", "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
			"error_type", "name", "operation", "rejection_code", "type"),
		passedOver: counter("apiserver_admission_webhook_fail_open_count", "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
			"name", "type"),
		conditions: histogram("apiserver_admission_match_condition_evaluation_seconds", "[ALPHA] Admission match condition evaluation time in seconds, identified by name and broken out for each kind containing matchConditions (webhook or policy), operation and type (validate or admit).",
			[]float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}, "kind", "name", "operation", "type"),
		skipped: counter("apiserver_admission_match_condition_exclusions_total", "[ALPHA] Admission match condition evaluation exclusions count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
			"kind", "name", "operation", "type"),
	}
	c.Set = metricset.Set{c.took, c.asked, c.refused, c.passedOver, c.conditions, c.skipped}
	return c
}

// phase is what upstream calls the sort of a webhook; its counter of excluded
// requests has a word of its own.
func (h *hook) phase() string {
	if h.mutating {
		return "admit"
	}
	return "validating"
}

// answered counts what came of asking a webhook: nil is that it allowed the
// write.
func (c *Counts) answered(h *hook, op admission.Operation, err error, took time.Duration) {
	if c == nil {
		return
	}
	code, rejected, cause := http.StatusOK, err != nil, "no_error"
	var failed *failure
	var status apierrors.APIStatus
	switch {
	case err == nil:
	case errors.As(err, &failed):
		// What failed was not refused by the webhook, so that no code counts as
		// its own.
		code, cause = http.StatusServiceUnavailable, "calling_webhook_error"
		if rejected = !h.ignores(); !rejected {
			c.passedOver.WithLabelValues(h.Name, h.phase()).Inc()
		}
	case errors.As(err, &status):
		code = min(int(status.Status().Code), 600)
		if code == http.StatusInternalServerError && apierrors.IsInternalError(err) {
			cause = "apiserver_internal_error"
		}
	}
	c.took.WithLabelValues(h.Name, string(op), strconv.FormatBool(rejected), h.phase()).Observe(took.Seconds())
	c.asked.WithLabelValues(strconv.Itoa(code), h.Name, string(op), strconv.FormatBool(rejected), h.phase()).Inc()
	if !rejected {
		return
	}
	if cause != "no_error" {
		code = 0
	}
	c.refused.WithLabelValues(cause, h.Name, string(op), strconv.Itoa(code), h.phase()).Inc()
}

// matched counts that a webhook's conditions were asked about a write.
func (c *Counts) matched(h *hook, op admission.Operation, ok bool, err error, took time.Duration) {
	if c == nil {
		return
	}
	c.conditions.WithLabelValues("webhook", h.Name, string(op), h.phase()).Observe(took.Seconds())
	if ok || err != nil {
		return
	}
	phase := "validate"
	if h.mutating {
		phase = "admit"
	}
	c.skipped.WithLabelValues("webhook", h.Name, string(op), phase).Inc()
}
