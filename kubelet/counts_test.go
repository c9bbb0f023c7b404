package kubelet

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A start is counted once, when all containers run, and without the time of
// pulls and init containers where that is not the kubelet's.
func TestStartsAreMeasured(t *testing.T) {
	made := time.Unix(1000, 0)
	at := func(s int) metav1.Time { return metav1.NewTime(made.Add(time.Duration(s) * time.Second)) }
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(0)}}
	running := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	waiting := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}
	ended := corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: at(3), FinishedAt: at(7)}}}

	c := newCounts()
	s := &starting{seen: at(1).Time, pulled: 2 * time.Second}
	c.ran(s, pod, &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running, waiting}}, at(5).Time)
	if s.seen.IsZero() {
		t.Error("counted while a container waits")
	}
	for range 2 {
		c.ran(s, pod, &corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{ended}, ContainerStatuses: []corev1.ContainerStatus{running, running}}, at(10).Time)
	}
	got := histograms(t, c)
	for name, sum := range map[string]float64{"kubelet_pod_start_duration_seconds": 9, "kubelet_pod_start_total_duration_seconds": 10, "kubelet_pod_start_sli_duration_seconds": 4} {
		if h := got[name]; h.GetSampleCount() != 1 || h.GetSampleSum() != sum {
			t.Errorf("%s: %v, want one of %v s", name, h, sum)
		}
	}
}

// histograms gathers the histograms by their names and labels' values.
func histograms(t *testing.T, c *counts) map[string]*dto.Histogram {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.parts()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*dto.Histogram{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			out[name] = m.Histogram
		}
	}
	return out
}

func TestPullsAreCountedBySize(t *testing.T) {
	c := newCounts()
	for _, size := range []uint64{0, 10<<20 - 1, 10 << 20, 2 << 30, 1 << 50} {
		c.pulled(size, time.Second)
	}
	got := histograms(t, c)
	for class, want := range map[string]uint64{"0-10MB": 2, "10MB-100MB": 1, "1GB-5GB": 1, "GT100GB": 1} {
		if n := got["kubelet_image_pull_duration_seconds "+class].GetSampleCount(); n != want {
			t.Errorf("%s: %d pulls, want %d", class, n, want)
		}
	}
}

// A change that could not be written is measured until it is, and one that came
// during a write from then on.
func TestStatusesAreMeasuredUntilWritten(t *testing.T) {
	var took []float64
	m := &statusManager{took: func(s float64) { took = append(took, s) }}
	first, second := &corev1.PodStatus{}, &corev1.PodStatus{}
	e := &podStatus{status: second, changed: time.Now().Add(-time.Hour)}
	m.told(e, first)
	if len(took) != 1 || took[0] < 3600 || e.changed.IsZero() || time.Since(e.changed) > time.Minute {
		t.Fatalf("took %v, waits since %v", took, e.changed)
	}
	m.told(e, second)
	m.told(e, second)
	if len(took) != 2 || took[1] > 60 || !e.changed.IsZero() {
		t.Errorf("took %v, waits since %v", took, e.changed)
	}
}
