package kubelet

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/api/podspec"
)

// Metrics are what the kubelet and its parts measure.
func (k *Kubelet) Metrics() []prometheus.Collector {
	return []prometheus.Collector{k.claims, measures{k}}
}

// startup is when the node began. It is safe for concurrent use.
type startup struct {
	mu                                   sync.Mutex
	boot, begun, asked, registered, well time.Time
}

// begin notes the kubelet's start, and how long the machine had been up.
func (s *startup) begin(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun, s.boot = now, now
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		s.boot = now.Add(-time.Duration(info.Uptime) * time.Second)
	}
}

// first notes a moment the first time that it comes.
func (s *startup) first(at *time.Time, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.IsZero() {
		*at = now
	}
}

// durations are the times before the kubelet's start, before its registration,
// during and after it until the node was ready, and all of it; false before
// that.
func (s *startup) durations() (out [5]time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.well.IsZero() {
		return out, false
	}
	return [...]time.Duration{s.begun.Sub(s.boot), s.asked.Sub(s.begun), s.registered.Sub(s.asked), s.well.Sub(s.registered), s.well.Sub(s.boot)}, true
}

// workKey tells the pods that are worked on apart.
type workKey struct{ lifecycle, config, static string }

func staticLabel(static bool) string {
	if static {
		return "true"
	}
	return ""
}

// countPods tells of the pods at this moment.
func (k *Kubelet) countPods(put func(d *prometheus.Desc, v float64, labels ...string)) {
	active, desired, working, volumes := map[bool]int{}, map[bool]int{}, map[workKey]int{}, map[[2]string]int{}
	for _, lifecycle := range []string{"sync", "terminating", "terminated"} {
		for _, config := range []string{"desired", "orphan"} {
			working[workKey{lifecycle, config, ""}], working[workKey{lifecycle, config, "true"}] = 0, 0
		}
	}
	mirrors, ephemeral, resizing := 0, 0, 0
	for _, w := range k.allWorkers() {
		w.mu.Lock()
		s, pod := &w.state, w.state.Pod
		at := workKey{"sync", "desired", staticLabel(w.static)}
		if s.Gone {
			at.config = "orphan"
		} else {
			desired[w.static]++
		}
		switch {
		case s.Released || s.Rejected != nil:
			at.lifecycle = "terminated"
		case !s.EndingSince.IsZero():
			at.lifecycle = "terminating"
		}
		working[at]++
		if at.lifecycle != "terminated" && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
			active[w.static]++
			if w.static {
				mirrors++
			}
			for i := range pod.Spec.Volumes {
				name := pluginName(pod, &pod.Spec.Volumes[i])
				volumes[[2]string{name, "desired_state_of_world"}]++
				if s.VolumesMounted {
					volumes[[2]string{name, "actual_state_of_world"}]++
				}
			}
		}
		ephemeral += len(pod.Spec.EphemeralContainers)
		if findCondition(pod.Status.Conditions, corev1.PodResizeInProgress) != nil {
			resizing++
		}
		w.mu.Unlock()
	}
	for _, static := range []bool{false, true} {
		put(k.gauges.active, float64(active[static]), staticLabel(static))
		put(k.gauges.desired, float64(desired[static]), staticLabel(static))
	}
	for at, n := range working {
		put(k.gauges.working, float64(n), at.lifecycle, at.config, at.static)
	}
	for at, n := range volumes {
		put(k.gauges.volumes, float64(n), at[0], at[1])
	}
	put(k.gauges.mirrors, float64(mirrors))
	put(k.gauges.ephemeral, float64(ephemeral))
	put(k.gauges.resizing, float64(resizing))
}

// pluginName is what metrics call the plugin of a pod's volume.
func pluginName(pod *corev1.Pod, v *corev1.Volume) string {
	name := "unknown"
	switch {
	case podspec.ClaimName(pod, v) != "", v.CSI != nil:
		name = "csi"
	case v.EmptyDir != nil:
		name = "empty-dir"
	case v.HostPath != nil:
		name = "host-path"
	case v.ConfigMap != nil:
		name = "configmap"
	case v.Secret != nil:
		name = "secret"
	case v.DownwardAPI != nil:
		name = "downward-api"
	case v.Projected != nil:
		name = "projected"
	case v.Image != nil:
		name = "image"
	}
	return "kubernetes.io/" + name
}
