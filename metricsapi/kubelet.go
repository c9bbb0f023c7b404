package metricsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// counter is what a node, or a container, has used of the CPU since it began,
// and its working set in bytes, at one moment.
type counter struct {
	at     time.Time
	nanos  uint64
	memory uint64
}

// podID names one life of a pod.
type podID struct {
	types.NamespacedName
	uid string
}

// reading is what a kubelet answered.
type reading struct {
	at   time.Time
	node counter
	pods map[podID]map[string]counter // by container
}

// maxSummary bounds what is read of a kubelet's answer, in bytes.
const maxSummary = 64 << 20

// kubelet asks a kubelet for its summary (the stats/v1alpha1 API), of CPU and
// memory alone.
func kubelet(ctx context.Context, hc *http.Client, address string, now time.Time) (*reading, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/stats/summary?only_cpu_and_memory=true", nil)
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
	var sum stats.Summary
	if err := json.NewDecoder(io.LimitReader(res.Body, maxSummary)).Decode(&sum); err != nil {
		return nil, fmt.Errorf("reading the answer of the kubelet at %s: %w", address, err)
	}
	return read(&sum, now), nil
}

// read takes what has both measures: a container without one does not run.
func read(sum *stats.Summary, now time.Time) *reading {
	r := &reading{at: now, pods: make(map[podID]map[string]counter, len(sum.Pods))}
	r.node, _ = count(sum.Node.CPU, sum.Node.Memory)
	for i := range sum.Pods {
		p := &sum.Pods[i]
		containers := make(map[string]counter, len(p.Containers))
		for j := range p.Containers {
			c := &p.Containers[j]
			if n, ok := count(c.CPU, c.Memory); ok {
				containers[c.Name] = n
			}
		}
		id := podID{types.NamespacedName{Namespace: p.PodRef.Namespace, Name: p.PodRef.Name}, p.PodRef.UID}
		r.pods[id] = containers
	}
	return r
}

func count(cpu *stats.CPUStats, memory *stats.MemoryStats) (counter, bool) {
	if cpu == nil || cpu.UsageCoreNanoSeconds == nil || memory == nil || memory.WorkingSetBytes == nil {
		return counter{}, false
	}
	return counter{at: cpu.Time.Time, nanos: *cpu.UsageCoreNanoSeconds, memory: *memory.WorkingSetBytes}, true
}

// usage is what was used between two counters of the same thing: nanocores
// and bytes. ok is false if they are not of the same life or moment.
func usage(before, now counter) (nanocores, bytes uint64, ok bool) {
	d := now.at.Sub(before.at)
	if before.at.IsZero() || d <= 0 || now.nanos < before.nanos {
		return 0, 0, false
	}
	return uint64(float64(now.nanos-before.nanos) / d.Seconds()), now.memory, true
}

// identify is the podID of a pod as the API has it.
func identify(p *corev1.Pod) podID {
	return podID{types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, string(p.UID)}
}
