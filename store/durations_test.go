package store

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestStopwatch: each operation of each kind is measured by itself, and none
// without a collector.
func TestStopwatch(t *testing.T) {
	(&stopwatch{}).since(opGet, time.Now())
	d := NewDurations()
	pods := stopwatch{of: d, gr: schema.GroupResource{Resource: "pods"}}
	for range 3 {
		pods.since(opCreate, time.Now())
	}
	pods.since(opGet, time.Now())
	leases := stopwatch{of: d, gr: schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}}
	leases.since(opUpdate, time.Now())
	(&stopwatch{}).received(1)
	pods.received(2)
	pods.received(1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(d)
	families, err := registry.Gather()
	if err != nil || len(families) != 2 || families[1].GetName() != "etcd_request_duration_seconds" {
		t.Fatal(families, err)
	}
	if m := families[0].GetMetric(); len(m) != 1 || m[0].GetCounter().GetValue() != 3 {
		t.Errorf("events received: %v", m)
	}
	got := map[string]uint64{}
	for _, m := range families[1].GetMetric() {
		name := ""
		for _, l := range m.GetLabel() { // group, operation, resource
			name += l.GetValue() + "/"
		}
		got[name] = m.GetHistogram().GetSampleCount()
	}
	for name, n := range map[string]uint64{"/create/pods/": 3, "/get/pods/": 1, "coordination.k8s.io/update/leases/": 1} {
		if got[name] != n {
			t.Errorf("%s: %d, want %d", name, got[name], n)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %v", got)
	}
}
