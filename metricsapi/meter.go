package metricsapi

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/clock"
)

// measure is two readings of a node. It is read only.
type measure struct{ before, now *reading }

// meter measures one node. Whoever asks while another does gets the same
// answer.
type meter struct {
	clock clock.Clock
	turn  chan struct{} // held while last is used
	last  *measure      // before is nil if one reading is all there is
}

// measure returns a measure that is fresh. A rate takes two readings: where
// there is no recent one, it reads twice.
func (m *meter) measure(ctx context.Context, read func() (*reading, error)) (*measure, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := m.clock.Now()
	if m.last != nil && now.Sub(m.last.now.at) < fresh {
		return m.last, nil
	}
	var before *reading
	if m.last != nil && now.Sub(m.last.now.at) <= stale {
		before = m.last.now
	}
	if before == nil {
		var err error
		if before, err = read(); err != nil {
			return nil, err
		}
		timer := m.clock.NewTimer(apart)
		defer timer.Stop()
		select {
		case <-timer.C():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	latest, err := read()
	if err != nil {
		return nil, err
	}
	m.last = &measure{before, latest}
	return m.last, nil
}

// pod is the measure of a pod, or nil if one of its containers, or the pod as
// a whole, has not been seen twice.
func (m *measure) pod(p *corev1.Pod) *metricsv1beta1.PodMetrics {
	if p.Status.Phase != corev1.PodRunning {
		return nil
	}
	id := identify(p)
	out := &metricsv1beta1.PodMetrics{}
	for name, c := range m.now.pods[id] {
		if p.Status.StartTime != nil && c.at.Before(p.Status.StartTime.Time) {
			return nil // of another pod of the name
		}
		before := m.before.pods[id][name]
		cores, bytes, ok := usage(before, c)
		if !ok {
			return nil
		}
		if out.Timestamp.Time.Before(c.at) {
			out.Timestamp, out.Window = metav1.NewTime(c.at), window(before, c)
		}
		out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: quantities(cores, bytes)})
	}
	if len(out.Containers) == 0 {
		return nil
	}
	slices.SortFunc(out.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
