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
	(&stopwatch{}).since(opGet, time.Now(), nil)
	d := NewDurations()
	pods := stopwatch{of: d, gr: schema.GroupResource{Resource: "pods"}}
	for range 3 {
		pods.since(opCreate, time.Now(), nil)
	}
	pods.since(opGet, time.Now(), nil)
	leases := stopwatch{of: d, gr: schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}}
	leases.since(opUpdate, time.Now(), errNotLoaded)
	(&stopwatch{}).received(1)
	pods.received(2)
	pods.received(1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(d)
	families, err := registry.Gather()
	if err != nil || len(families) != 5 || families[2].GetName() != "etcd_request_duration_seconds" {
		t.Fatal(families, err)
	}
	if m := families[0].GetMetric(); len(m) != 1 || m[0].GetCounter().GetValue() != 3 {
		t.Errorf("events received: %v", m)
	}
	if m := families[3].GetMetric(); families[3].GetName() != "etcd_request_errors_total" || len(m) != 1 || m[0].GetCounter().GetValue() != 1 {
		t.Errorf("errors: %v", families[3])
	}
	got := map[string]uint64{}
	for _, m := range families[2].GetMetric() {
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
