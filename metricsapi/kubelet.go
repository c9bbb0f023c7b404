package metricsapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// counter is what a node, or a container, has used of the CPU since it began,
// in seconds, and its working set in bytes, at one moment.
type counter struct {
	began, at time.Time
	seconds   float64
	memory    float64
	known     int // bits: of the two, what was measured
}

const both = 3

// reading is what a kubelet answered.
type reading struct {
	at   time.Time
	node counter
	pods map[types.NamespacedName]map[string]counter // by container
}

// maxAnswer bounds what is read of a kubelet's answer, in bytes.
const maxAnswer = 64 << 20

// kubelet asks a kubelet for its resource metrics (KEP-2371; "Node metrics
// data" in the documentation names them).
func kubelet(ctx context.Context, hc *http.Client, address string, now func() time.Time) (*reading, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics/resource", nil)
	if err != nil {
		return nil, err
	}
	res, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200))
		return nil, fmt.Errorf("the kubelet at %s answered %s: %s", address, res.Status, text)
	}
	r := &reading{at: now(), pods: map[types.NamespacedName]map[string]counter{}}
	if err := samples(io.LimitReader(res.Body, maxAnswer), r.add); err != nil {
		return nil, fmt.Errorf("reading the answer of the kubelet at %s: %w", address, err)
	}
	return r, nil
}

// add takes a sample in. One without a time is of now.
func (r *reading) add(s sample) {
	if s.at.IsZero() {
		s.at = r.at
	}
	var set func(*counter)
	switch s.name {
	case "node_cpu_usage_seconds_total", "container_cpu_usage_seconds_total":
		set = func(c *counter) { c.seconds, c.at, c.known = s.value, s.at, c.known|1 }
	case "node_memory_working_set_bytes", "container_memory_working_set_bytes":
		set = func(c *counter) { c.memory, c.known = s.value, c.known|2 }
	case "container_start_time_seconds":
		set = func(c *counter) { c.began = time.UnixMilli(int64(s.value * 1000)) }
	default:
		return
	}
	if s.name[0] == 'n' {
		set(&r.node)
		return
	}
	pod, name := types.NamespacedName{Namespace: s.labels["namespace"], Name: s.labels["pod"]}, s.labels["container"]
	if r.pods[pod] == nil {
		r.pods[pod] = map[string]counter{}
	}
	c := r.pods[pod][name]
	set(&c)
	r.pods[pod][name] = c
}

// usage is what was used between two counters of the same thing, in cores and
// bytes. ok is false if they are not of one life, or not of two moments.
func usage(before, now counter) (cores, bytes float64, ok bool) {
	d := now.at.Sub(before.at)
	if before.known != both || now.known != both || d <= 0 || now.seconds < before.seconds || now.began.Sub(before.began).Abs() > time.Second {
		return 0, 0, false
	}
	return (now.seconds - before.seconds) / d.Seconds(), now.memory, true
}

// identify is a pod's key in a reading.
func identify(p *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}
