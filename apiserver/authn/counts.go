package authn

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/internal/metricset"
)

// AccountCounts count the uses of service account tokens, in upstream's names:
// those of pods, which are to be replaced before they expire, in time and too
// late, and those in secrets. It is a prometheus.Collector, safe for concurrent
// use; a nil *AccountCounts counts nothing.
type AccountCounts struct {
	metricset.Set
	valid, stale, legacy prometheus.Counter
}

// NewAccountCounts makes counts of nothing yet.
func NewAccountCounts() *AccountCounts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	c := &AccountCounts{
		valid:  counter("serviceaccount_valid_tokens_total", "[ALPHA] Cumulative valid projected service account tokens used"),
		stale:  counter("serviceaccount_stale_tokens_total", "[ALPHA] Cumulative stale projected service account tokens used"),
		legacy: counter("serviceaccount_legacy_tokens_total", "[ALPHA] Cumulative legacy service account tokens used"),
	}
	c.Set = metricset.Set{c.valid, c.stale, c.legacy}
	return c
}

func (c *AccountCounts) projected(late bool) {
	switch {
	case c == nil:
	case late:
		c.stale.Inc()
	default:
		c.valid.Inc()
	}
}

func (c *AccountCounts) fromSecret() {
	if c != nil {
		c.legacy.Inc()
	}
}
