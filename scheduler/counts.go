package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/coxswain/cox/internal/metricset"
	"github.com/coxswain/cox/scheduler/devices"
)

// Counts are the scheduler's metrics, under upstream's names. It is a
// prometheus.Collector, safe for concurrent use; a nil *Counts counts nothing.
type Counts struct {
	metricset.Set
	made, conditional *prometheus.CounterVec
	wait              *prometheus.HistogramVec
	measures          *measures
}

// NewCounts returns metrics without samples.
func NewCounts() *Counts {
	c := &Counts{
		made: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_resourceclaim_creates_total", Help: "Number of ResourceClaims creation requests within scheduler",
		}, []string{"status"}),
		conditional: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_dra_bindingconditions_allocations_total",
			Help: "Number of allocations using devices with BindingConditions, counted per driver per scheduling attempt",
		}, []string{"driver"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_dra_bindingconditions_wait_duration_seconds",
			Help: "Time in seconds spent waiting for BindingConditions to be satisfied during PreBind.", Buckets: prometheus.ExponentialBuckets(0.1, 2, 14),
		}, []string{"status"}),
	}
	c.measures = newMeasures()
	c.Set = metricset.Set{c.made, c.conditional, c.wait, c.measures}
	return c
}

// ofScheduling are those that are not about devices; nil for none.
func (c *Counts) ofScheduling() *measures {
	if c == nil {
		return nil
	}
	return c.measures
}

func outcome(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}

func (c *Counts) claimMade(err error) {
	if c != nil {
		c.made.WithLabelValues(outcome(err)).Inc()
	}
}

// planned counts the drivers whose devices have conditions to be met.
func (c *Counts) planned(p *devices.Plan) {
	if c == nil {
		return
	}
	drivers := sets.New[string]()
	for _, d := range p.Claims {
		if d.Allocation == nil {
			continue
		}
		for i := range d.Allocation.Devices.Results {
			if r := &d.Allocation.Devices.Results[i]; len(r.BindingConditions) > 0 {
				drivers.Insert(r.Driver)
			}
		}
	}
	for name := range drivers {
		c.conditional.WithLabelValues(name).Inc()
	}
}

func (c *Counts) waited(d time.Duration, err error) {
	if c != nil {
		c.wait.WithLabelValues(outcome(err)).Observe(d.Seconds())
	}
}
