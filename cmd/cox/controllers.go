package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/coxswain/cox/controllers/autoscaling"
	"github.com/coxswain/cox/controllers/endpointslice"
	"github.com/coxswain/cox/controllers/legacytoken"
	"github.com/coxswain/cox/controllers/manager"
	"github.com/coxswain/cox/controllers/mirroring"
	"github.com/coxswain/cox/controllers/nodelifecycle"
)

// controllerConfig is how the controllers run, by upstream's flags.
type controllerConfig struct {
	list         []string
	workers      map[string]*int // by a controller's name; 0 is its own number
	finishedPods int
	unusedTokens time.Duration
	mask4, mask6 int
	nodes        nodelifecycle.Settings
	scaling      autoscaling.Settings
	// Endpoints and their slices.
	batch  time.Duration
	slices endpointslice.Settings
	mirror mirroring.Settings
	// What is done unless it is switched off.
	collect, provision bool
	keepAttached       bool
	// Of the zone's nodes that are evicted from, so many per second.
	rate, slowRate float64
}

func (c *controllerConfig) flags(fs *pflag.FlagSet) {
	d := nodelifecycle.Defaults()
	perSecond := func(every time.Duration) float64 { return 1 / every.Seconds() }
	fs.StringSliceVar(&c.list, "controllers", []string{"*"}, "which controllers run: '*' all, 'foo' that one, '-foo' all but that one")
	c.scalingFlags(fs)
	c.endpointFlags(fs)
	fs.BoolVar(&c.collect, "enable-garbage-collector", true, "whether objects are deleted whose owners are gone")
	fs.BoolVar(&c.provision, "enable-dynamic-provisioning", true, "whether volumes are provided for claims that none fits")
	fs.BoolVar(&c.keepAttached, "disable-force-detach-on-timeout", false, "leave volumes in use attached to a node that has not been well for long: it must be marked out of service")
	c.workers = map[string]*int{}
	for name, flag := range manager.Flags() {
		c.workers[name] = fs.Int("concurrent-"+flag+"-syncs", 0, "how many objects the "+name+" handles at once (default: its own number)")
	}
	fs.IntVar(&c.finishedPods, "terminated-pod-gc-threshold", 12500, "how many finished pods may stay; 0 or less is all of them")
	fs.DurationVar(&c.unusedTokens, "legacy-service-account-token-clean-up-period", legacytoken.Period, "for how long a token that the cluster made of its own accord may go unused before it is marked invalid, and then until it is deleted")
	c.workers["endpointslice-mirroring-controller"] = fs.Int("mirroring-concurrent-service-endpoint-syncs", 0, "the same of the endpointslice-mirroring-controller")
	fs.IntVar(&c.mask4, "node-cidr-mask-size-ipv4", 24, "size of a node's range of pod addresses, IPv4")
	fs.IntVar(&c.mask6, "node-cidr-mask-size-ipv6", 64, "the same, IPv6")
	fs.DurationVar(&c.nodes.MonitorGrace, "node-monitor-grace-period", d.MonitorGrace, "how long a node may be silent before it counts as not ready")
	fs.DurationVar(&c.nodes.StartupGrace, "node-startup-grace-period", d.StartupGrace, "how long a node may be silent that was never heard")
	fs.Float64Var(&c.rate, "node-eviction-rate", perSecond(d.EvictionInterval), "of how many nodes of a healthy zone pods are evicted, per second")
	fs.Float64Var(&c.slowRate, "secondary-node-eviction-rate", perSecond(d.SlowInterval), "the same in an unhealthy zone")
	fs.Float64Var(&c.nodes.UnhealthyShare, "unhealthy-zone-threshold", d.UnhealthyShare, "what share of its nodes, not ready, makes a zone unhealthy")
	fs.IntVar(&c.nodes.LargeZone, "large-cluster-size-threshold", d.LargeZone, "an unhealthy zone of up to so many nodes is not evicted from at all")
}

func (c *controllerConfig) scalingFlags(fs *pflag.FlagSet) {
	const prefix = "horizontal-pod-autoscaler-"
	d := autoscaling.Defaults()
	fs.DurationVar(&c.scaling.SyncPeriod, prefix+"sync-period", d.SyncPeriod, "how often the metrics of autoscalers are looked at")
	fs.Float64Var(&c.scaling.Tolerance, prefix+"tolerance", d.Tolerance, "by how much use may differ from its target, as a share of that, before an autoscaler acts")
	fs.DurationVar(&c.scaling.DownscaleStabilization, prefix+"downscale-stabilization", d.DownscaleStabilization, "for how long an autoscaler does not go below what it has recommended")
	fs.DurationVar(&c.scaling.CPUInitialization, prefix+"cpu-initialization-period", d.CPUInitialization, "for how long after a pod's start its use of the CPU may be left out")
	fs.DurationVar(&c.scaling.InitialReadiness, prefix+"initial-readiness-delay", d.InitialReadiness, "for how long after a pod's start its readiness counts as that of its start")
}

func (c *controllerConfig) endpointFlags(fs *pflag.FlagSet) {
	fs.DurationVar(&c.batch, "endpoint-updates-batch-period", 0, "for how long the changes of pods are gathered before Endpoints are written")
	fs.DurationVar(&c.slices.Batch, "endpointslice-updates-batch-period", 0, "the same of EndpointSlices")
	fs.IntVar(&c.slices.Most, "max-endpoints-per-slice", endpointslice.MaxEndpoints, "how many endpoints a slice holds at most")
	fs.DurationVar(&c.mirror.Batch, "mirroring-endpointslice-updates-batch-period", 0, "for how long the changes of Endpoints are gathered before they are mirrored")
	fs.IntVar(&c.mirror.Most, "mirroring-max-endpoints-per-subset", mirroring.PerSubset, "how many addresses of a subset are mirrored at most")
}

// complete checks what was given.
func (c *controllerConfig) complete() error {
	if err := manager.CheckControllers(c.list); err != nil {
		return fmt.Errorf("--controllers: %w", err)
	}
	for name, n := range c.workers {
		if *n < 0 {
			return fmt.Errorf("%d objects handled at once by the %s is negative", *n, name)
		}
	}
	if c.unusedTokens <= 0 {
		return fmt.Errorf("--legacy-service-account-token-clean-up-period=%v is not positive", c.unusedTokens)
	}
	if c.rate < 0 || c.slowRate < 0 {
		return fmt.Errorf("--node-eviction-rate and --secondary-node-eviction-rate are not negative")
	}
	if c.nodes.UnhealthyShare < 0 || c.nodes.UnhealthyShare > 1 {
		return fmt.Errorf("--unhealthy-zone-threshold=%v is not between 0 and 1", c.nodes.UnhealthyShare)
	}
	if a := c.scaling; a.SyncPeriod <= 0 || a.Tolerance < 0 || a.DownscaleStabilization < 0 || a.CPUInitialization < 0 || a.InitialReadiness < 0 {
		return fmt.Errorf("--horizontal-pod-autoscaler-sync-period is positive, and its other settings are not negative")
	}
	if c.batch < 0 || c.slices.Batch < 0 || c.mirror.Batch < 0 {
		return fmt.Errorf("the batch periods of Endpoints and EndpointSlices are not negative")
	}
	const most = 1000 // endpoints of a slice: the API's own bound
	if n := c.slices.Most; n < 1 || n > most {
		return fmt.Errorf("--max-endpoints-per-slice=%d is not between 1 and %d", n, most)
	}
	if n := c.mirror.Most; n < 1 || n > most {
		return fmt.Errorf("--mirroring-max-endpoints-per-subset=%d is not between 1 and %d", n, most)
	}
	c.nodes.EvictionInterval, c.nodes.SlowInterval = interval(c.rate), interval(c.slowRate)
	return nil
}

// interval is the time between two events of a rate per second; that of a rate
// of 0 is longer than any cluster lives.
func interval(rate float64) time.Duration {
	const never = 100 * 365 * 24 * time.Hour
	if rate <= 0 || 1/rate > never.Seconds() {
		return never
	}
	return time.Duration(float64(time.Second) / rate)
}

// put hands the settings to the controllers.
func (c *controllerConfig) put(m *manager.Config) {
	m.Controllers, m.Nodes, m.Autoscaling = c.list, c.nodes, c.scaling
	m.NodeMaskIPv4, m.NodeMaskIPv6 = c.mask4, c.mask6
	if !c.collect {
		// The first that names it counts.
		m.Controllers = slices.Insert(slices.Clone(c.list), 0, "-garbage-collector-controller")
	}
	m.EndpointsBatch, m.Slices, m.Mirror = c.batch, c.slices, c.mirror
	m.StaticVolumes, m.KeepAttached = !c.provision, c.keepAttached
	m.Workers = map[string]int{}
	for name, n := range c.workers {
		m.Workers[name] = *n
	}
	m.FinishedPods, m.UnusedTokens = c.finishedPods, c.unusedTokens
	if c.finishedPods <= 0 {
		m.FinishedPods = -1
	}
}
