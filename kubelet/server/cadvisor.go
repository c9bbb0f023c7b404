package server

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/kubelet/cgroups"
	"github.com/coxswain/cox/kubelet/probes"
)

// Groups finds the cgroups of what the node runs; *kubelet.Kubelet is one.
type Groups interface {
	Cgroups() *cgroups.Manager
	PodGroup(pod *corev1.Pod) string
	ContainerGroup(pod *corev1.Pod, id string) string
	ProbeCounts() []probes.Counts
}

// subject is a cgroup with the labels under which dashboards look for it: all
// metrics of containers carry container, id, image, name, namespace and pod.
type subject struct {
	labels  []string
	usage   *cgroups.Usage
	started time.Time
	network []iface // of pods with a network of their own
}

func subjectLabels(container, id, image, name, namespace, pod string) []string {
	return []string{"container", container, "id", id, "image", image, "name", name, "namespace", namespace, "pod", pod}
}

// cadvisorMetrics answers with the usage of every cgroup of the node, under
// the names that cAdvisor gave them. Nothing is collected in between.
func (s *Server) cadvisorMetrics(w http.ResponseWriter, _ *http.Request) {
	if s.cfg.Groups == nil {
		refuse(w, "no cgroups are known", http.StatusNotFound)
		return
	}
	s.cadvisor.mu.Lock()
	defer s.cadvisor.mu.Unlock()
	if time.Since(s.cadvisor.at) >= minInterval {
		s.cadvisor.text = cadvisorText(s.subjects())
		s.cadvisor.at = time.Now()
	}
	w.Header().Set("Content-Type", textFormat)
	_, _ = w.Write(s.cadvisor.text)
}

// subjects reads the usage of the machine, the classes, the pods and their
// containers.
func (s *Server) subjects() []subject {
	m := s.cfg.Groups.Cgroups()
	var out []subject
	add := func(group string, started time.Time, labels ...string) *subject {
		u, err := m.Usage(group)
		if err != nil {
			return nil // gone in the meantime
		}
		out = append(out, subject{labels: labels, usage: u, started: started})
		return &out[len(out)-1]
	}
	for _, g := range []string{"/", m.Group(cgroups.Guaranteed, ""), m.Group(cgroups.Burstable, ""), m.Group(cgroups.BestEffort, "")} {
		add(g, s.started, subjectLabels("", g, "", "", "", "")...)
	}
	pods := s.cfg.Node.PodList()
	sort.Slice(pods, func(i, j int) bool { return pods[i].UID < pods[j].UID })
	for _, p := range pods {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		group := s.cfg.Groups.PodGroup(p)
		var began time.Time
		if p.Status.StartTime != nil {
			began = p.Status.StartTime.Time
		}
		if sub := add(group, began, subjectLabels("", group, "", "", p.Namespace, p.Name)...); sub != nil && !p.Spec.HostNetwork {
			sub.network = groupNetwork(m, group)
		}
		for _, l := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range l {
				c := &l[i]
				_, id, ok := strings.Cut(c.ContainerID, "://")
				if !ok || c.State.Running == nil {
					continue
				}
				g := s.cfg.Groups.ContainerGroup(p, id)
				add(g, c.State.Running.StartedAt.Time, subjectLabels(c.Name, g, c.Image, id, p.Namespace, p.Name)...)
			}
		}
	}
	return out
}

// iface is one link's counters: received and sent bytes, packets, errors and
// dropped packets.
type iface struct {
	name   string
	rx, tx [4]float64
}

// groupNetwork reads the links that the processes of a pod see; nil if none
// runs.
func groupNetwork(m *cgroups.Manager, group string) []iface {
	pid := m.AnyProcess(group)
	if pid == 0 {
		return nil
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "net/dev"))
	if err != nil {
		return nil
	}
	return parseNetDev(string(b))
}

// parseNetDev reads /proc/net/dev (proc(5)) but for the loopback link.
func parseNetDev(text string) []iface {
	var out []iface
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 16 || name == "lo" {
			continue
		}
		i := iface{name: name}
		for n := range 4 {
			i.rx[n], _ = strconv.ParseFloat(f[n], 64)
			i.tx[n], _ = strconv.ParseFloat(f[8+n], 64)
		}
		out = append(out, i)
	}
	return out
}

// usageMetric is one metric of a cgroup; a value of ok false is left out.
type usageMetric struct {
	name, kind, help string
	value            func(s *subject) (v float64, ok bool)
}

const nano = 1e-9

func always(f func(u *cgroups.Usage) float64) func(*subject) (float64, bool) {
	return func(s *subject) (float64, bool) { return f(s.usage), true }
}

// limited are the metrics of quotas, which only limited groups have.
func limited(f func(u *cgroups.Usage) float64) func(*subject) (float64, bool) {
	return func(s *subject) (float64, bool) { return f(s.usage), s.quota() > 0 }
}

// quota is the CPU quota; v1 shows none as -1, which reads as 0.
func (s *subject) quota() uint64 { return s.usage.Quota }

var usageMetrics = []usageMetric{
	{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", always(func(u *cgroups.Usage) float64 { return float64(u.CPU) * nano })},
	{"container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", always(func(u *cgroups.Usage) float64 { return float64(u.CPUUser) * nano })},
	{"container_cpu_system_seconds_total", "counter", "Cumulative system cpu time consumed in seconds.", always(func(u *cgroups.Usage) float64 { return float64(u.CPUSystem) * nano })},
	{"container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", limited(func(u *cgroups.Usage) float64 { return float64(u.Periods) })},
	{"container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", limited(func(u *cgroups.Usage) float64 { return float64(u.Throttled) })},
	{"container_cpu_cfs_throttled_seconds_total", "counter", "Total time duration the container has been throttled.", limited(func(u *cgroups.Usage) float64 { return float64(u.ThrottledTime) * nano })},
	{"container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", always(func(u *cgroups.Usage) float64 { return float64(u.Memory) })},
	{"container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", always(func(u *cgroups.Usage) float64 { return float64(u.MemoryMax) })},
	{"container_memory_working_set_bytes", "gauge", "Current working set in bytes.", always(func(u *cgroups.Usage) float64 { return float64(u.WorkingSet) })},
	{"container_memory_rss", "gauge", "Size of RSS in bytes.", always(func(u *cgroups.Usage) float64 { return float64(u.RSS) })},
	{"container_memory_cache", "gauge", "Number of bytes of page cache memory.", always(func(u *cgroups.Usage) float64 { return float64(u.Cache) })},
	{"container_memory_swap", "gauge", "Container swap usage in bytes.", always(func(u *cgroups.Usage) float64 { return float64(u.Swap) })},
	{"container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", always(func(u *cgroups.Usage) float64 { return float64(u.MappedFile) })},
	{"container_memory_failcnt", "counter", "Number of memory usage hits limits", always(func(u *cgroups.Usage) float64 { return float64(u.FailCount) })},
	{"container_oom_events_total", "counter", "Count of out of memory events observed for the container", always(func(u *cgroups.Usage) float64 { return float64(u.OOMKills) })},
	{"container_processes", "gauge", "Number of processes running inside the container.", always(func(u *cgroups.Usage) float64 { return float64(u.Processes) })},
	{"container_threads_max", "gauge", "Maximum number of threads allowed inside the container, infinity if value is zero", always(func(u *cgroups.Usage) float64 { return float64(u.ProcessLimit) })},
	{"container_spec_cpu_shares", "gauge", "CPU share of the container.", always(func(u *cgroups.Usage) float64 { return float64(u.Shares) })},
	{"container_spec_cpu_period", "gauge", "CPU period of the container.", always(func(u *cgroups.Usage) float64 { return float64(u.Period) })},
	{"container_spec_cpu_quota", "gauge", "CPU quota of the container.", limited(func(u *cgroups.Usage) float64 { return float64(u.Quota) })},
	{"container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", always(func(u *cgroups.Usage) float64 { return float64(u.MemoryLimit) })},
	{"container_spec_memory_swap_limit_bytes", "gauge", "Memory swap limit for the container.", always(func(u *cgroups.Usage) float64 { return float64(u.SwapLimit) })},
	{"container_last_seen", "gauge", "Last time a container was seen by the exporter", always(func(u *cgroups.Usage) float64 { return float64(u.At.Unix()) })},
	{"container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", func(s *subject) (float64, bool) {
		return float64(s.started.Unix()), !s.started.IsZero()
	}},
}

// cadvisorText writes the metrics, all samples of one together.
func cadvisorText(subjects []subject) []byte {
	var t text
	t.add("cadvisor_version_info", "gauge", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.", 1,
		"cadvisorRevision", "", "cadvisorVersion", "", "dockerVersion", "", "kernelVersion", oneLine("/proc/sys/kernel/osrelease"), "osVersion", "")
	for _, m := range usageMetrics {
		for i := range subjects {
			if v, ok := m.value(&subjects[i]); ok {
				t.add(m.name, m.kind, m.help, v, subjects[i].labels...)
			}
		}
	}
	faults := func(s *subject, kind, scope string, n uint64) {
		t.add("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", float64(n), append([]string{"failure_type", kind, "scope", scope}, s.labels...)...)
	}
	for i := range subjects {
		s := &subjects[i]
		faults(s, "pgfault", "hierarchy", s.usage.Faults)
		faults(s, "pgmajfault", "hierarchy", s.usage.MajorFaults)
	}
	t.io(subjects)
	t.pressure(subjects)
	t.network(subjects)
	t.add("machine_cpu_cores", "gauge", "Number of logical CPU cores.", float64(goruntime.NumCPU()), "boot_id", oneLine("/proc/sys/kernel/random/boot_id"), "machine_id", oneLine("/etc/machine-id"), "system_uuid", oneLine("/sys/class/dmi/id/product_uuid"))
	if mem, _, err := nodeMemory(); err == nil {
		t.add("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", float64(*mem.AvailableBytes+*mem.WorkingSetBytes), "boot_id", oneLine("/proc/sys/kernel/random/boot_id"), "machine_id", oneLine("/etc/machine-id"), "system_uuid", oneLine("/sys/class/dmi/id/product_uuid"))
	}
	t.add("container_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", 0)
	return t.Bytes()
}

func oneLine(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func (t *text) io(subjects []subject) {
	for _, m := range []struct {
		name, help string
		value      func(d *cgroups.DeviceIO) uint64
	}{
		{"container_fs_reads_bytes_total", "Cumulative count of bytes read", func(d *cgroups.DeviceIO) uint64 { return d.ReadBytes }},
		{"container_fs_reads_total", "Cumulative count of reads completed", func(d *cgroups.DeviceIO) uint64 { return d.ReadOps }},
		{"container_fs_writes_bytes_total", "Cumulative count of bytes written", func(d *cgroups.DeviceIO) uint64 { return d.WriteBytes }},
		{"container_fs_writes_total", "Cumulative count of writes completed", func(d *cgroups.DeviceIO) uint64 { return d.WriteOps }},
	} {
		for i := range subjects {
			for j := range subjects[i].usage.IO {
				d := &subjects[i].usage.IO[j]
				t.add(m.name, "counter", m.help, float64(m.value(d)), append([]string{"device", deviceName(d.Major, d.Minor)}, subjects[i].labels...)...)
			}
		}
	}
}

// deviceName is a block device's path, by its numbers if it has none.
func deviceName(major, minor uint32) string {
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return fmt.Sprintf("%d:%d", major, minor)
	}
	return "/dev/" + filepath.Base(link)
}

func (t *text) pressure(subjects []subject) {
	for _, what := range []string{"cpu", "memory", "io"} {
		for _, full := range []bool{true, false} {
			word, of := "waiting", func(p cgroups.Pressure) uint64 { return p.Some.Total }
			if full {
				word, of = "stalled", func(p cgroups.Pressure) uint64 { return p.Full.Total }
			}
			for i := range subjects {
				if p, ok := subjects[i].usage.Pressure[what]; ok {
					t.add("container_pressure_"+what+"_"+word+"_seconds_total", "counter", "Total time duration tasks in the container have waited due to "+what+" congestion.",
						float64(of(p))/1e6, subjects[i].labels...)
				}
			}
		}
	}
}

func (t *text) network(subjects []subject) {
	for n, what := range []string{"bytes", "packets", "errors", "packets_dropped"} {
		for _, dir := range []string{"receive", "transmit"} {
			for i := range subjects {
				for _, f := range subjects[i].network {
					v := f.rx[n]
					if dir == "transmit" {
						v = f.tx[n]
					}
					t.add("container_network_"+dir+"_"+what+"_total", "counter", "Cumulative count of "+strings.ReplaceAll(what, "_", " ")+" "+dir+"d",
						v, append([]string{"interface", f.name}, subjects[i].labels...)...)
				}
			}
		}
	}
}

// probeMetrics answers with how the checks of the probes went.
func (s *Server) probeMetrics(w http.ResponseWriter, _ *http.Request) {
	var t text
	if s.cfg.Groups != nil {
		counts := s.cfg.Groups.ProbeCounts()
		for i := range counts {
			c := &counts[i]
			for result, n := range map[string]uint64{"successful": c.Succeeded, "failed": c.Failed, "unknown": c.Unknown} {
				if n > 0 {
					t.add("prober_probe_total", "counter", "Cumulative number of a liveness, readiness or startup probe for a container by result.", float64(n),
						"container", c.Container, "namespace", c.Pod.Namespace, "pod", c.Pod.Name, "pod_uid", string(c.Pod.UID), "probe_type", string(c.Kind), "result", result)
				}
			}
		}
		for i := range counts {
			c := &counts[i]
			t.add("prober_probe_duration_seconds_sum", "counter", "Time spent in a liveness, readiness or startup probe for a container.", c.Duration.Seconds(),
				"container", c.Container, "namespace", c.Pod.Namespace, "pod", c.Pod.Name, "probe_type", string(c.Kind))
		}
	}
	w.Header().Set("Content-Type", textFormat)
	_, _ = w.Write(t.Bytes())
}
