package aggregation

import (
	"github.com/prometheus/client_golang/prometheus"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

var unavailable = prometheus.NewDesc("aggregator_unavailable_apiservice",
	"[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.", []string{"name"}, nil)

func newFalls() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "aggregator_unavailable_apiservice_total",
		Help: "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
	}, []string{"name", "reason"})
}

// Metrics counts, in upstream's names, the APIServices that are not available
// and how often each became so.
func (a *Aggregator) Metrics() prometheus.Collector { return &metrics{a} }

type metrics struct{ a *Aggregator }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- unavailable
	m.a.falls.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.a.falls.Collect(ch)
	for _, o := range m.a.list.GetStore().List() {
		s, ok := o.(*apiregistrationv1.APIService)
		if !ok {
			continue
		}
		value := 1.0
		for _, c := range s.Status.Conditions {
			if c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue {
				value = 0
			}
		}
		ch <- prometheus.MustNewConstMetric(unavailable, prometheus.GaugeValue, value, s.Name)
	}
}
