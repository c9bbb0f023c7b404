package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/coxswain/cox/store"
)

// storageSize tells, when somebody asks, how large etcd's database is.
type storageSize struct {
	of interface {
		Size(context.Context) (int64, error)
	} // nil: not known
	desc *prometheus.Desc
}

func newStorageSize(b store.Backend) *storageSize {
	s := &storageSize{desc: prometheus.NewDesc("apiserver_storage_size_bytes",
		"[STABLE] Size of the storage database file physically allocated in bytes.", []string{"storage_cluster_id"}, nil)}
	s.of, _ = b.(interface {
		Size(context.Context) (int64, error)
	})
	return s
}

// Describe implements prometheus.Collector.
func (s *storageSize) Describe(ch chan<- *prometheus.Desc) { ch <- s.desc }

// Collect implements prometheus.Collector. An etcd that does not answer has no
// size.
func (s *storageSize) Collect(ch chan<- prometheus.Metric) {
	if s.of == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if n, err := s.of.Size(ctx); err == nil {
		ch <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, float64(n), "etcd-0")
	}
}
