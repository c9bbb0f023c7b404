package metricset

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

type counts struct {
	Set
	seen  prometheus.Counter
	taken *prometheus.CounterVec
}

// TestSet: what embeds a set is registered, collected and unregistered whole.
func TestSet(t *testing.T) {
	c := &counts{
		seen:  prometheus.NewCounter(prometheus.CounterOpts{Name: "seen_total", Help: "h"}),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "taken_total", Help: "h"}, []string{"by"}),
	}
	c.Set = Set{c.seen, c.taken}
	c.seen.Inc()
	c.taken.WithLabelValues("a").Inc()
	c.taken.WithLabelValues("b").Inc()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 2 || len(families[0].Metric) != 1 || len(families[1].Metric) != 2 {
		t.Errorf("%v, %v", families, err)
	}
	if err := reg.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "taken_total", Help: "h"})); err == nil {
		t.Error("a part's name can be taken twice: it was not described")
	}
	if !reg.Unregister(c) {
		t.Error("not found again by what it describes")
	}
}
