package policies

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/internal/metricset"
)

// Counts are the metrics of policies, in upstream's names. It is a
// prometheus.Collector, safe for concurrent use; a nil *Counts counts nothing.
type Counts struct {
	metricset.Set
	validated, mutated *prometheus.CounterVec
	checked, changed   *prometheus.HistogramVec
}

// NewCounts makes counts of nothing yet.
func NewCounts() *Counts {
	counter := metricset.Counters
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return metricset.Histograms(name, help, []float64{0.0000005, 0.001, 0.01, 0.1, 1}, labels...)
	}
	c := &Counts{
		validated: counter("apiserver_validating_admission_policy_check_total", "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
			"enforcement_action", "error_type", "policy", "policy_binding"),
		checked: histogram("apiserver_validating_admission_policy_check_duration_seconds", "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
			"enforcement_action", "error_type", "policy", "policy_binding"),
		mutated: counter("apiserver_mutating_admission_policy_check_total", "[ALPHA] Mutation admission policy check total, labeled by policy and further identified by binding.",
			"error_type", "policy", "policy_binding"),
		changed: histogram("apiserver_mutating_admission_policy_check_duration_seconds", "[ALPHA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
			"error_type", "policy", "policy_binding"),
	}
	c.Set = metricset.Set{c.validated, c.checked, c.mutated, c.changed}
	return c
}

// denied counts a no, once for each of the actions that it means. What a policy
// lets pass is not counted.
func (c *Counts) denied(p *policy, b *binding, err error, took time.Duration) {
	if c == nil {
		return
	}
	for _, a := range b.actions {
		action := strings.ToLower(string(a))
		c.validated.WithLabelValues(action, fault(err), p.name, b.name).Inc()
		c.checked.WithLabelValues(action, fault(err), p.name, b.name).Observe(took.Seconds())
	}
}

// mutatedBy counts that a policy was carried out with a binding.
func (c *Counts) mutatedBy(p *policy, b *binding, err error, took time.Duration) {
	if c == nil {
		return
	}
	why := "no_error"
	if err != nil {
		why = fault(err)
	}
	c.mutated.WithLabelValues(why, p.name, b.name).Inc()
	c.changed.WithLabelValues(why, p.name, b.name).Observe(took.Seconds())
}

// fault is what upstream calls the sort of an expression's failure, that of one
// which was simply false included.
func fault(err error) string {
	if errors.Is(err, expression.ErrBudget) {
		return "out_of_budget"
	}
	return "invalid_error"
}
