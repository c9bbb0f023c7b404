package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const textFormat = "text/plain; version=0.0.4; charset=utf-8"

// text collects metrics in the Prometheus text format.
type text struct {
	bytes.Buffer
	declared map[string]bool
}

func (t *text) add(name, kind, help string, value float64, labels ...string) {
	t.at(name, kind, help, value, metav1.Time{}, labels...)
}

// at adds a sample that was taken at a time; the zero value, and the
// epoch, stand for now.
func (t *text) at(name, kind, help string, value float64, at metav1.Time, labels ...string) {
	if t.declared == nil {
		t.declared = map[string]bool{}
	}
	if !t.declared[name] {
		t.declared[name] = true
		fmt.Fprintf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	t.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		t.WriteByte(sep)
		t.WriteString(labels[i] + `="` + labelEscapes.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		t.WriteByte('}')
	}
	t.WriteByte(' ')
	t.WriteString(strconv.FormatFloat(value, 'g', -1, 64))
	if at.UnixMilli() > 0 {
		t.WriteByte(' ')
		t.WriteString(strconv.FormatInt(at.UnixMilli(), 10))
	}
	t.WriteByte('\n')
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// resourceMetrics answers with what metrics-server reads: KEP-2371 and the
// page "Node metrics data" of the documentation name the metrics.
func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	var t text
	sum, err := s.collect(r.Context(), true)
	failed := 0.0
	if err != nil {
		s.log.Warn("cannot collect metrics", "err", err)
		failed, sum = 1, &stats.Summary{}
	}
	// All samples of a metric stand together.
	own := []used{{cpu: sum.Node.CPU, memory: sum.Node.Memory, swap: sum.Node.Swap}}
	var pods, containers []used
	for i := range sum.Pods {
		p := &sum.Pods[i]
		labels := []string{"namespace", p.PodRef.Namespace, "pod", p.PodRef.Name}
		pods = append(pods, used{labels, p.CPU, p.Memory, p.Swap})
		for j := range p.Containers {
			c := &p.Containers[j]
			containers = append(containers, used{append([]string{"container", c.Name}, labels...), c.CPU, c.Memory, c.Swap})
		}
	}
	t.usages("node", own)
	t.usages("container", containers)
	t.usages("pod", pods)
	t.startTimes(s)
	t.add("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed)
	w.Header().Set("Content-Type", textFormat)
	_, _ = w.Write(t.Bytes())
}

// used is what something with labels uses; what is nil is not known.
type used struct {
	labels []string
	cpu    *stats.CPUStats
	memory *stats.MemoryStats
	swap   *stats.SwapStats
}

func (t *text) usages(what string, all []used) {
	for i := range all {
		if c := all[i].cpu; c != nil && c.UsageCoreNanoSeconds != nil {
			t.at(what+"_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the "+what+" in core-seconds", float64(*c.UsageCoreNanoSeconds)/1e9, c.Time, all[i].labels...)
		}
	}
	for i := range all {
		if m := all[i].memory; m != nil && m.WorkingSetBytes != nil {
			t.at(what+"_memory_working_set_bytes", "gauge", "Current working set of the "+what+" in bytes", float64(*m.WorkingSetBytes), m.Time, all[i].labels...)
		}
	}
	for i := range all {
		if s := all[i].swap; s != nil && s.SwapUsageBytes != nil {
			t.at(what+"_swap_usage_bytes", "gauge", "Current swap usage of the "+what+" in bytes. Reported only on non-windows systems", float64(*s.SwapUsageBytes), s.Time, all[i].labels...)
		}
	}
}

// startTimes are when the running containers began, as their pods' statuses
// say.
func (t *text) startTimes(s *Server) {
	for _, p := range s.cfg.Node.PodList() {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running != nil {
				t.add("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds",
					float64(c.State.Running.StartedAt.UnixNano())/1e9, "container", c.Name, "namespace", p.Namespace, "pod", p.Name)
			}
		}
	}
}

// metrics answers with metrics about the kubelet itself.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	var t text
	pods, containers := 0, 0
	for _, p := range s.cfg.Node.PodList() {
		running := 0
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running != nil {
				running++
			}
		}
		containers += running
		if running > 0 {
			pods++
		}
	}
	t.add("kubelet_node_name", "gauge", "The node's name. The count is always 1.", 1, "node", s.cfg.Node.NodeName())
	t.add("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", float64(pods))
	t.add("kubelet_running_containers", "gauge", "Number of containers currently running", float64(containers), "container_state", "running")
	t.volumes(r.Context(), s.cfg.Node)
	w.Header().Set("Content-Type", textFormat)
	_, _ = w.Write(t.Bytes())
	// Without the asker's headers, which could ask for another format.
	s.collected.ServeHTTP(w, (&http.Request{Method: http.MethodGet, Header: http.Header{}}).WithContext(r.Context()))
}

// volumes tells how full claims are whose drivers say so.
func (t *text) volumes(ctx context.Context, node Node) {
	var all []stats.VolumeStats
	seen := map[stats.PVCReference]bool{}
	for _, pod := range node.PodList() {
		for _, v := range node.VolumeStats(ctx, pod) {
			if v.PVCRef != nil && !seen[*v.PVCRef] { // several pods may share one
				seen[*v.PVCRef] = true
				all = append(all, v)
			}
		}
	}
	for _, m := range []struct {
		name, help string
		of         func(*stats.VolumeStats) *uint64
	}{
		{"capacity_bytes", "Capacity in bytes of the volume", func(v *stats.VolumeStats) *uint64 { return v.CapacityBytes }},
		{"available_bytes", "Number of available bytes in the volume", func(v *stats.VolumeStats) *uint64 { return v.AvailableBytes }},
		{"used_bytes", "Number of used bytes in the volume", func(v *stats.VolumeStats) *uint64 { return v.UsedBytes }},
		{"inodes", "Maximum number of inodes in the volume", func(v *stats.VolumeStats) *uint64 { return v.Inodes }},
		{"inodes_free", "Number of free inodes in the volume", func(v *stats.VolumeStats) *uint64 { return v.InodesFree }},
		{"inodes_used", "Number of used inodes in the volume", func(v *stats.VolumeStats) *uint64 { return v.InodesUsed }},
		{"health_status_abnormal", "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy", health},
	} {
		for i := range all {
			if n := m.of(&all[i]); n != nil {
				t.add("kubelet_volume_stats_"+m.name, "gauge", m.help, float64(*n), "namespace", all[i].PVCRef.Namespace, "persistentvolumeclaim", all[i].PVCRef.Name)
			}
		}
	}
}

func health(v *stats.VolumeStats) *uint64 {
	if v.VolumeHealthStats == nil {
		return nil
	}
	var n uint64
	if v.VolumeHealthStats.Abnormal {
		n = 1
	}
	return &n
}
