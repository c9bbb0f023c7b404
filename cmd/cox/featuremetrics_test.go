package main

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestFeatureMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newFeatureMetrics([]string{gateStorageMigration}))
	all, err := r.Gather()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	got := map[string]float64{}
	for _, m := range all[0].Metric {
		key := ""
		for _, l := range m.Label {
			key += l.GetValue() + "|"
		}
		got[key] = m.Gauge.GetValue()
	}
	for key, want := range map[string]float64{
		gateStorageMigration + "|BETA|": 1, "WatchList|BETA|": 1, "DynamicResourceAllocation||": 1, "ClusterTrustBundle|BETA|": 0,
	} {
		if have, ok := got[key]; !ok || have != want {
			t.Errorf("%s is %v (%v), want %v", key, have, ok, want)
		}
	}
}
