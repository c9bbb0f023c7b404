// Package reloads counts how configuration files are followed: what came of
// each change goes in, metrics of upstream's names come out.
package reloads

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/internal/metricset"
)

// Metrics are those of one file. A nil one counts nothing. It is safe for
// concurrent use, and a prometheus.Collector.
type Metrics struct {
	metricset.Set
	total *prometheus.CounterVec
	last  *prometheus.GaugeVec
	info  *prometheus.GaugeVec
	now   func() time.Time
}

// New returns the metrics of what upstream calls the kind of configuration
// ("authentication", "authorization", "encryption"), of the server of the name
// that its identity's Lease has. Upstream's metrics reference has them.
func New(kind, server string, now func() time.Time) *Metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{
			Namespace: "apiserver", Subsystem: kind + "_config_controller", Name: name, Help: help,
			ConstLabels: prometheus.Labels{"apiserver_id_hash": shown(sha256.Sum256([]byte(server)))},
		}
	}
	m := &Metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts(opts("automatic_reloads_total",
			"How often a change of the "+kind+" configuration was taken over, or was not.")), []string{"status"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("automatic_reload_last_timestamp_seconds",
			"When that was last, by its outcome.")), []string{"status"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("last_config_info",
			"The hash of the "+kind+" configuration in force. The value is always 1.")), []string{"hash"}),
		now: now,
	}
	m.Set = metricset.Set{m.total, m.last, m.info}
	return m
}

func shown(sum [sha256.Size]byte) string { return fmt.Sprintf("sha256:%x", sum) }

// InForce says what holds from now on, by the hash of the file.
func (m *Metrics) InForce(sum [sha256.Size]byte) {
	if m == nil {
		return
	}
	m.info.Reset()
	m.info.WithLabelValues(shown(sum)).Set(1)
}

// Taken says that a change was taken over.
func (m *Metrics) Taken(sum [sha256.Size]byte) {
	m.InForce(sum)
	m.came("success")
}

// Failed says that a change was not taken over.
func (m *Metrics) Failed() { m.came("failure") }

func (m *Metrics) came(status string) {
	if m == nil {
		return
	}
	m.total.WithLabelValues(status).Inc()
	m.last.WithLabelValues(status).Set(float64(m.now().UnixMilli()) / 1000)
}
