package main

import (
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/coxswain/cox/controllers/endpointslice"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/controllers/mirroring"
	"github.com/coxswain/cox/controllers/nodelifecycle"
)

func TestControllerFlags(t *testing.T) {
	parse := func(args ...string) (manager.Config, error) {
		var c controllerConfig
		fs := pflag.NewFlagSet("t", pflag.ContinueOnError)
		c.flags(fs)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		var m manager.Config
		err := c.complete()
		c.put(&m)
		return m, err
	}
	m, err := parse()
	if err != nil || m.Nodes != nodelifecycle.Defaults() || m.FinishedPods != 12500 {
		t.Errorf("defaults: %+v %v", m, err)
	}
	m, err = parse("--controllers=*,-cronjob", "--concurrent-gc-syncs=3", "--node-eviction-rate=0.5", "--secondary-node-eviction-rate=0", "--terminated-pod-gc-threshold=0",
		"--horizontal-pod-autoscaler-sync-period=3s", "--horizontal-pod-autoscaler-tolerance=0.2")
	if err != nil || m.Workers["garbage-collector-controller"] != 3 || m.Nodes.EvictionInterval != 2*time.Second || m.Nodes.SlowInterval < 1000*time.Hour || m.FinishedPods != -1 || m.Autoscaling.SyncPeriod != 3*time.Second || m.Autoscaling.Tolerance != 0.2 || len(m.Controllers) != 2 {
		t.Errorf("given: %+v %v", m, err)
	}
	m, err = parse("--enable-garbage-collector=false", "--enable-dynamic-provisioning=false", "--disable-force-detach-on-timeout", "--endpoint-updates-batch-period=1s",
		"--endpointslice-updates-batch-period=2s", "--max-endpoints-per-slice=7", "--mirroring-endpointslice-updates-batch-period=3s", "--mirroring-max-endpoints-per-subset=8")
	if err != nil || m.Controllers[0] != "-garbage-collector-controller" || m.Controllers[1] != "*" || !m.StaticVolumes || !m.KeepAttached || m.EndpointsBatch != time.Second ||
		m.Slices != (endpointslice.Settings{Batch: 2 * time.Second, Most: 7}) || m.Mirror != (mirroring.Settings{Batch: 3 * time.Second, Most: 8}) {
		t.Errorf("given: %+v %v", m, err)
	}
	for _, bad := range []string{"--max-endpoints-per-slice=0", "--max-endpoints-per-slice=1001", "--mirroring-max-endpoints-per-subset=0", "--endpoint-updates-batch-period=-1s", "--controllers=foo", "--concurrent-job-syncs=-1", "--unhealthy-zone-threshold=2", "--node-eviction-rate=-1", "--horizontal-pod-autoscaler-sync-period=0s"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
