package actions

import (
	"context"
	"math/big"
	"math/bits"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/metricset"
)

// The scopes of an allocation: what a user asked for, and what was chosen.
const (
	static  = "static"
	dynamic = "dynamic"
)

// counts are the metrics of addresses and node ports, in upstream's names.
type counts struct {
	metricset.Set
	ips, ipErrors, ports, portErrors *prometheus.CounterVec
	took                             *prometheus.HistogramVec
}

func newCounts() *counts {
	counter := metricset.Counters
	const ip, port = "kube_apiserver_clusterip_allocator_", "kube_apiserver_nodeport_allocator_"
	c := &counts{
		ips:        counter(ip+"allocation_total", "[ALPHA] Number of Cluster IPs allocations", "cidr", "scope"),
		ipErrors:   counter(ip+"allocation_errors_total", "[ALPHA] Number of errors trying to allocate Cluster IPs", "cidr", "scope"),
		ports:      counter(port+"allocation_total", "[ALPHA] Number of NodePort allocations", "scope"),
		portErrors: counter(port+"allocation_errors_total", "[ALPHA] Number of errors trying to allocate NodePort", "scope"),
		took:       metricset.Histograms(ip+"allocation_duration_seconds", "[ALPHA] Duration in seconds to allocate a Cluster IP by ServiceCIDR", prometheus.DefBuckets, "cidr"),
	}
	c.Set = metricset.Set{c.ips, c.ipErrors, c.ports, c.portErrors, c.took}
	return c
}

// ip counts an address that was, or was not, allocated in a range.
func (c *counts) ip(in netip.Prefix, scope string, err error, took time.Duration) {
	cidr := in.Masked().String()
	if err != nil {
		c.ipErrors.WithLabelValues(cidr, scope).Inc()
		return
	}
	c.ips.WithLabelValues(cidr, scope).Inc()
	c.took.WithLabelValues(cidr).Observe(took.Seconds())
}

func (c *counts) port(scope string, err error) {
	if err != nil {
		c.portErrors.WithLabelValues(scope).Inc()
		return
	}
	c.ports.WithLabelValues(scope).Inc()
}

// allotted tells, when somebody asks, what is taken and what is left.
type allotted struct {
	s                                        *Services
	ips, freeIPs, portsTaken, portsAvailable *prometheus.Desc
}

// Metrics are those of addresses and node ports.
func (s *Services) Metrics() prometheus.Collector {
	return metricset.Set{s.counts, &allotted{
		s:              s,
		ips:            prometheus.NewDesc("kube_apiserver_clusterip_allocator_allocated_ips", "[ALPHA] Gauge measuring the number of allocated IPs for Services", []string{"cidr"}, nil),
		freeIPs:        prometheus.NewDesc("kube_apiserver_clusterip_allocator_available_ips", "[ALPHA] Gauge measuring the number of available IPs for Services", []string{"cidr"}, nil),
		portsTaken:     prometheus.NewDesc("kube_apiserver_nodeport_allocator_allocated_ports", "[ALPHA] Gauge measuring the number of allocated NodePorts for Services", nil, nil),
		portsAvailable: prometheus.NewDesc("kube_apiserver_nodeport_allocator_available_ports", "[ALPHA] Gauge measuring the number of available NodePorts for Services", nil, nil),
	}}
}

// Describe implements prometheus.Collector.
func (a *allotted) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{a.ips, a.freeIPs, a.portsTaken, a.portsAvailable} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read now is not shown.
func (a *allotted) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	for _, r := range a.s.ips {
		taken, _, err := client.IPAddresses.In(r.c, "").List(ctx, client.Options{})
		if err != nil {
			continue
		}
		n := 0
		for _, ip := range taken {
			if addr, err := netip.ParseAddr(ip.Name); err == nil && r.prefix.Contains(addr) {
				n++
			}
		}
		cidr := r.prefix.Masked().String()
		gauge(a.ips, float64(n), cidr)
		gauge(a.freeIPs, max(0, float64(sizeOf(r.prefix))-float64(n)), cidr)
	}
	p := a.s.ports
	e, err := p.store.Get(ctx, portKey, "")
	if err != nil {
		return
	}
	n := 0
	for _, word := range new(big.Int).SetBytes(e.Object.(*corev1.RangeAllocation).Data).Bits() {
		n += bits.OnesCount(uint(word))
	}
	gauge(a.portsTaken, float64(n))
	gauge(a.portsAvailable, float64(p.size-n))
}
