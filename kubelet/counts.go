package kubelet

import (
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/internal/metricset"
)

// counts are the kubelet's own metrics, under the names that upstream's has
// for them (the page "Kubernetes Metrics Reference"). They are safe for
// concurrent use.
type counts struct {
	podsStarted, podsFailed   prometheus.Counter
	usersStarted, usersFailed prometheus.Counter // pods with users of their own
	started, failed, ended    *prometheus.CounterVec
	sandboxTook               *prometheus.HistogramVec
	sandboxFailed             *prometheus.CounterVec
	containers                prometheus.Histogram

	running, sli, total prometheus.Histogram
	synced              *prometheus.HistogramVec
	taken               prometheus.Histogram
	told                prometheus.Histogram

	relisted, relistGap        prometheus.Histogram
	streams, streamsFailed     prometheus.Counter
	streamTook                 prometheus.Histogram
	seen                       atomic.Int64 // when the runtime was last heard of, Unix nanoseconds
	orphans                    prometheus.Counter
	evictions                  *prometheus.CounterVec
	images                     *prometheus.CounterVec
	pulls                      *prometheus.HistogramVec
	collected                  *prometheus.CounterVec
	sleepsCut, httpFallbacks   prometheus.Counter
	cgroups                    *prometheus.HistogramVec
	shutdownBegun, shutdownEnd prometheus.Gauge
	volumes                    *prometheus.HistogramVec
}

func newCounts() *counts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, labels)
	}
	times := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets})
	}
	timesBy := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_" + name, Help: help})
	}
	starts := []float64{.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	return &counts{
		podsStarted:  counter("started_pods_total", "Cumulative number of pods started"),
		podsFailed:   counter("started_pods_errors_total", "Cumulative number of errors when starting pods"),
		usersStarted: counter("started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux."),
		usersFailed:  counter("started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux."),
		started:      counters("started_containers_total", "Cumulative number of containers started", "container_type"),
		failed:       counters("started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code"),
		ended:        counters("terminated_containers_total", "Cumulative number of container terminations.", "container_type", "exit_code", "reason"),
		sandboxTook: timesBy("kubelet_run_podsandbox_duration_seconds", "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
			prometheus.DefBuckets, "runtime_handler"),
		sandboxFailed: counters("run_podsandbox_errors_total", "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", "runtime_handler"),
		containers:    times("containers_per_pod_count", "The number of containers per pod.", prometheus.ExponentialBuckets(1, 2, 5)),

		running: times("pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", starts),
		sli:     times("pod_start_sli_duration_seconds", "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", starts),
		total:   times("pod_start_total_duration_seconds", "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", starts),
		synced:  timesBy("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", prometheus.DefBuckets, "operation_type"),
		taken:   times("pod_worker_start_duration_seconds", "Duration in seconds from kubelet seeing a pod to starting a worker.", prometheus.DefBuckets),
		told: times("pod_status_sync_duration_seconds", "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
			[]float64{.01, .05, .1, .5, 1, 5, 10, 20, 30, 45, 60}),

		relisted:      times("pleg_relist_duration_seconds", "Duration in seconds for relisting pods in PLEG.", prometheus.DefBuckets),
		relistGap:     times("pleg_relist_interval_seconds", "Interval in seconds between relisting in PLEG.", prometheus.DefBuckets),
		streams:       counter("evented_pleg_connection_success_count", "The number of times a streaming client was obtained to receive CRI Events."),
		streamsFailed: counter("evented_pleg_connection_error_count", "The number of errors encountered during the establishment of streaming connection with the CRI runtime."),
		streamTook:    times("evented_pleg_connection_latency_seconds", "The latency of streaming connection with the CRI runtime, measured in seconds.", prometheus.DefBuckets),
		orphans:       counter("orphaned_runtime_pods_total", "Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual."),
		evictions:     counters("evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal"),
		images:        counters("image_manager_ensure_image_requests_total", "Number of ensure-image requests processed by the kubelet.", "present_locally", "pull_policy", "pull_required"),
		pulls: timesBy("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image.",
			[]float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}, "image_size_in_bytes"),
		collected:     counters("image_garbage_collected_total", "Total number of images garbage collected by the kubelet, whether through disk usage or image age.", "reason"),
		sleepsCut:     counter("sleep_action_terminated_early_total", "The number of times lifecycle sleep handler got terminated before it finishes"),
		httpFallbacks: counter("lifecycle_handler_http_fallbacks_total", "The number of times lifecycle handlers successfully fell back to http from https."),
		cgroups:       timesBy("kubelet_cgroup_manager_duration_seconds", "Duration in seconds for cgroup manager operations. Broken down by method.", prometheus.DefBuckets, "operation_type"),
		shutdownBegun: gauge("graceful_shutdown_start_time_seconds", "Last graceful shutdown start time since unix epoch in seconds"),
		shutdownEnd:   gauge("graceful_shutdown_end_time_seconds", "Last graceful shutdown end time since unix epoch in seconds"),
		volumes: timesBy("storage_operation_duration_seconds", "Storage operation duration", []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600},
			"volume_plugin", "operation_name", "status", "migrated"),
	}
}

func (c *counts) parts() metricset.Set {
	return metricset.Set{
		c.podsStarted, c.podsFailed, c.usersStarted, c.usersFailed, c.started, c.failed, c.ended, c.sandboxTook, c.sandboxFailed, c.containers,
		c.running, c.sli, c.total, c.synced, c.taken, c.told, c.relisted, c.relistGap, c.streams, c.streamsFailed, c.streamTook, c.orphans,
		c.evictions, c.images, c.pulls, c.collected, c.sleepsCut, c.httpFallbacks, c.cgroups, c.shutdownBegun, c.shutdownEnd, c.volumes,
	}
}

// typeOf is what metrics call a kind of container.
func typeOf(kind containerKind) string {
	switch kind {
	case initContainer:
		return "init_container"
	case ephemeralContainer:
		return "ephemeral_container"
	}
	return "container"
}

// sandbox enters one attempt to make a pod's sandbox.
func (c *counts) sandbox(pod *corev1.Pod, err error) {
	users := ownUsers(pod)
	c.podsStarted.Inc()
	if users {
		c.usersStarted.Inc()
	}
	if err == nil {
		return
	}
	c.podsFailed.Inc()
	if users {
		c.usersFailed.Inc()
	}
}

// launched enters one attempt to start a container; code is why it failed, ""
// if it did not.
func (c *counts) launched(pod *corev1.Pod, kind containerKind, code string) {
	c.started.WithLabelValues(typeOf(kind)).Inc()
	if code == "" {
		return
	}
	c.failed.WithLabelValues(typeOf(kind), code).Inc()
	if ownUsers(pod) {
		c.usersFailed.Inc()
	}
}

// exited enters the end of a container.
func (c *counts) exited(spec *corev1.PodSpec, in *instance) {
	_, kind := findContainer(spec, in.name())
	c.ended.WithLabelValues(typeOf(kind), strconv.Itoa(int(in.ExitCode)), in.Reason).Inc()
}

// imageSizes are the classes of images' sizes in bytes, each with the least
// that does not belong to it any more.
var imageSizes = [...]struct {
	below uint64
	name  string
}{
	{10 << 20, "0-10MB"}, {100 << 20, "10MB-100MB"}, {500 << 20, "100MB-500MB"}, {1 << 30, "500MB-1GB"}, {5 << 30, "1GB-5GB"}, {10 << 30, "5GB-10GB"},
	{20 << 30, "10GB-20GB"}, {30 << 30, "20GB-30GB"}, {40 << 30, "30GB-40GB"}, {60 << 30, "40GB-60GB"}, {100 << 30, "60GB-100GB"}, {math.MaxUint64, "GT100GB"},
}

func (c *counts) pulled(size uint64, took time.Duration) {
	for _, s := range imageSizes {
		if size < s.below {
			c.pulls.WithLabelValues(s.name).Observe(took.Seconds())
			return
		}
	}
}

// cgroup enters one operation on a pod's cgroup.
func (c *counts) cgroup(operation string, begun time.Time) {
	c.cgroups.WithLabelValues(operation).Observe(time.Since(begun).Seconds())
}

// heard notes that the runtime was heard of.
func (c *counts) heard(now time.Time) { c.seen.Store(now.UnixNano()) }

// volume enters one operation of a volume plugin.
func (c *counts) volume(plugin, operation string, took time.Duration, err error) {
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	c.volumes.WithLabelValues(plugin, operation, status, "false").Observe(took.Seconds())
}

// starting is what is measured of a pod's start.
type starting struct {
	seen   time.Time     // by the kubelet; zero once the start is over, or was not seen
	pulled time.Duration // spent on images
}

// ran enters a pod's start once all its containers run. Init containers'
// time, and that of pulls, is not the kubelet's.
func (c *counts) ran(s *starting, pod *corev1.Pod, st *corev1.PodStatus, now time.Time) {
	if s.seen.IsZero() {
		return
	}
	for i := range st.ContainerStatuses {
		if st.ContainerStatuses[i].State.Running == nil {
			return
		}
	}
	var initial time.Duration
	for i := range st.InitContainerStatuses {
		if t := st.InitContainerStatuses[i].State.Terminated; t != nil {
			initial += t.FinishedAt.Sub(t.StartedAt.Time)
		}
	}
	all := now.Sub(pod.CreationTimestamp.Time)
	c.running.Observe(now.Sub(s.seen).Seconds())
	c.total.Observe(max(all, 0).Seconds())
	c.sli.Observe(max(all-s.pulled-initial, 0).Seconds())
	s.seen = time.Time{}
}

// gauges are what is counted when it is asked for.
type gauges struct {
	active, desired, working, mirrors, ephemeral, resizing *prometheus.Desc
	heard, version, exclusive, shared                      *prometheus.Desc
	volumes                                                *prometheus.Desc
	startup                                                [5]*prometheus.Desc
}

func newGauges() gauges {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kubelet_"+name, help, labels, nil)
	}
	g := gauges{
		active:    desc("active_pods", "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.", "static"),
		desired:   desc("desired_pods", "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.", "static"),
		working:   desc("working_pods", "Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.", "lifecycle", "config", "static"),
		mirrors:   desc("mirror_pods", "The number of mirror pods the kubelet will try to create (one per admitted static pod)"),
		ephemeral: desc("managed_ephemeral_containers", "Current number of ephemeral containers in pods managed by this kubelet."),
		resizing:  desc("pod_in_progress_resizes", "Number of in-progress resizes for pods."),
		heard:     desc("pleg_last_seen_seconds", "Timestamp in seconds when PLEG was last seen active."),
		version:   desc("cgroup_version", "cgroup version on the hosts."),
		exclusive: desc("cpu_manager_exclusive_cpu_allocation_count", "The total number of CPUs exclusively allocated to containers running on this node"),
		shared:    desc("cpu_manager_shared_pool_size_millicores", "The size of the shared CPU pool for non-guaranteed QoS pods, in millicores."),
		volumes:   prometheus.NewDesc("volume_manager_total_volumes", "Number of volumes in Volume Manager", []string{"plugin_name", "state"}, nil),
	}
	for i, s := range [...][2]string{
		{"pre_kubelet_", "Duration in seconds of node startup before kubelet starts."},
		{"pre_registration_", "Duration in seconds of node startup before registration."},
		{"registration_", "Duration in seconds of node startup during registration."},
		{"post_registration_", "Duration in seconds of node startup after registration."},
		{"", "Duration in seconds of node startup in total."},
	} {
		g.startup[i] = desc("node_startup_"+s[0]+"duration_seconds", s[1])
	}
	return g
}

func (g *gauges) all() []*prometheus.Desc {
	return append([]*prometheus.Desc{g.active, g.desired, g.working, g.mirrors, g.ephemeral, g.resizing, g.heard, g.version, g.exclusive, g.shared, g.volumes}, g.startup[:]...)
}

// measures is the kubelet as a prometheus.Collector.
type measures struct{ k *Kubelet }

// Describe implements prometheus.Collector.
func (m measures) Describe(ch chan<- *prometheus.Desc) {
	m.k.counts.parts().Describe(ch)
	for _, d := range m.k.gauges.all() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m measures) Collect(ch chan<- prometheus.Metric) {
	m.k.counts.parts().Collect(ch)
	g := &m.k.gauges
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.k.countPods(put)
	version := 1.0
	if m.k.cgroups.Mode() == "v2" {
		version = 2
	}
	put(g.version, version)
	own, shared := m.k.exclusive.CountCPUs()
	put(g.exclusive, float64(own))
	put(g.shared, float64(shared*1000))
	if seen := m.k.counts.seen.Load(); seen != 0 {
		put(g.heard, float64(seen)/1e9)
	}
	if times, ok := m.k.startup.durations(); ok {
		for i, d := range g.startup {
			put(d, times[i].Seconds())
		}
	}
}
