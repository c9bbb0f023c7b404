package autoscaling

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coxswain/cox/controllers/pods"
)

// Sample is what one pod uses, by container, as measured over the window that
// ended at a time.
type Sample struct {
	Usage  map[string]corev1.ResourceList
	At     time.Time
	Window time.Duration
}

// errNoneReady says that there are measures, but none that counts.
var errNoneReady = errors.New("did not receive metrics for targeted pods (pods might be unready)")

// Resource computes what a resource metric asks for, of all containers or of
// the one named. samples are by pod name.
func Resource(hpa Autoscaler, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget,
	covered []*corev1.Pod, samples map[string]Sample, current int32, now time.Time) (int32, autoscalingv2.MetricValueStatus, error) {
	var t tally
	byRequest := target.Type == autoscalingv2.UtilizationMetricType && target.AverageUtilization != nil
	for _, p := range covered {
		if !pods.Active(p) {
			continue
		}
		request, err := requested(p, name, container)
		if err != nil && byRequest {
			return 0, autoscalingv2.MetricValueStatus{}, err
		}
		s, ok := samples[p.Name]
		switch {
		case p.Status.Phase == corev1.PodPending || ok && name == corev1.ResourceCPU && hpa.starting(p, s, now):
			t.unready.add(0, request)
		case !ok:
			t.absent.add(0, request)
		default:
			t.measured.add(s.of(name, container), request)
		}
	}
	if t.measured.pods == 0 {
		return 0, autoscalingv2.MetricValueStatus{}, errNoneReady
	}
	value := autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(t.measured.used/t.measured.pods, resource.DecimalSI)}
	if !byRequest {
		if target.AverageValue == nil || milli(*target.AverageValue) <= 0 {
			return 0, value, errors.New("the target is zero")
		}
		n := t.replicas(hpa, current, average(milli(*target.AverageValue)))
		return n, value, nil
	}
	if t.measured.asked == 0 {
		return 0, value, fmt.Errorf("no metrics returned matched known pods")
	}
	percent := saturated(math.Trunc(float64(t.measured.used) * 100 / float64(t.measured.asked)))
	value.AverageUtilization = &percent
	return t.replicas(hpa, current, utilization(int64(*target.AverageUtilization))), value, nil
}

// of is what the containers, or the one named, use, in thousandths.
func (s Sample) of(name corev1.ResourceName, container string) (total int64) {
	for c, list := range s.Usage {
		if q, ok := list[name]; ok && (container == "" || c == container) {
			total = plus(total, milli(q))
		}
	}
	return total
}

// starting says that a pod's use of the CPU is that of its start, which says
// nothing of the load: it is not ready, and was not for long, or was measured
// before it was.
func (set *Settings) starting(p *corev1.Pod, s Sample, now time.Time) bool {
	ready := pods.Condition(p, corev1.PodReady)
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	began := p.Status.StartTime.Time
	if began.Add(set.CPUInitialization).After(now) {
		return ready.Status == corev1.ConditionFalse || s.At.Before(ready.LastTransitionTime.Add(s.Window))
	}
	return ready.Status == corev1.ConditionFalse && began.Add(set.InitialReadiness).After(ready.LastTransitionTime.Time)
}

// Pods computes what a pods metric asks for: each pod is to have the target's
// average. values are by pod name, in thousandths.
func Pods(hpa Autoscaler, target autoscalingv2.MetricTarget, covered []*corev1.Pod, values map[string]int64, current int32) (int32, autoscalingv2.MetricValueStatus, error) {
	var t tally
	for _, p := range covered {
		if !pods.Active(p) {
			continue
		}
		v, ok := values[p.Name]
		switch {
		case p.Status.Phase == corev1.PodPending:
			t.unready.add(0, 0)
		case !ok:
			t.absent.add(0, 0)
		default:
			t.measured.add(v, 0)
		}
	}
	if t.measured.pods == 0 {
		return 0, autoscalingv2.MetricValueStatus{}, errNoneReady
	}
	value := autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(t.measured.used/t.measured.pods, resource.DecimalSI)}
	if target.AverageValue == nil || milli(*target.AverageValue) <= 0 {
		return 0, value, errors.New("the target is zero")
	}
	return t.replicas(hpa, current, average(milli(*target.AverageValue))), value, nil
}

// Total computes what an object or external metric asks for, whose value (in
// thousandths) is that of all pods together. current is the observed size of
// the target, specified the one asked for.
func Total(hpa Autoscaler, target autoscalingv2.MetricTarget, covered []*corev1.Pod, amount int64, current, specified int32) (int32, autoscalingv2.MetricValueStatus, error) {
	if target.Type == autoscalingv2.AverageValueMetricType && target.AverageValue != nil {
		goal := milli(*target.AverageValue)
		if goal <= 0 {
			return 0, autoscalingv2.MetricValueStatus{}, errors.New("the target is zero")
		}
		each := autoscalingv2.MetricValueStatus{}
		want := current
		if current == 0 || !Within(hpa, float64(amount)/(float64(goal)*float64(current))) {
			want = roundUp(float64(amount) / float64(goal))
		}
		if current > 0 {
			each.AverageValue = resource.NewMilliQuantity(roundUp64(float64(amount)/float64(current)), resource.DecimalSI)
		} else {
			each.AverageValue = resource.NewMilliQuantity(0, resource.DecimalSI)
		}
		return want, each, nil
	}
	value := autoscalingv2.MetricValueStatus{Value: resource.NewMilliQuantity(amount, resource.DecimalSI)}
	if target.Value == nil || milli(*target.Value) <= 0 {
		return 0, value, errors.New("the target is zero")
	}
	ratio := float64(amount) / float64(milli(*target.Value))
	if specified == 0 {
		return roundUp(ratio), value, nil // nothing to go by but the ratio
	}
	if Within(hpa, ratio) {
		return specified, value, nil
	}
	ready := 0
	for _, p := range covered {
		if pods.Active(p) && p.Status.Phase == corev1.PodRunning && pods.Ready(p) {
			ready++
		}
	}
	return roundUp(ratio * float64(ready)), value, nil
}

// part is some of the pods: how many, and what they use and ask for together,
// in thousandths.
type part struct{ pods, used, asked int64 }

func (p *part) add(used, asked int64) { p.join(part{1, used, asked}) }

// tally is the pods by what is known of them.
type tally struct{ measured, absent, unready part }

// goal says what pods should use together, and what those without a measure
// are taken to use when the others argue for fewer.
type goal struct {
	of, assumed func(part) float64
}

func average(each int64) goal {
	of := func(p part) float64 { return float64(each) * float64(p.pods) }
	return goal{of, of}
}

func utilization(percent int64) goal {
	times := func(percent int64) func(part) float64 {
		return func(p part) float64 { return float64(p.asked) * float64(percent) / 100 }
	}
	return goal{times(percent), times(max(100, percent))}
}

// replicas is the size at which the measured use meets the goal. Pods without
// a measure argue for standing still: they count as idle against growing, and
// as fully used against shrinking; those that have just started count as idle
// against growing only.
func (t *tally) replicas(hpa Autoscaler, current int32, g goal) int32 {
	ratio := float64(t.measured.used) / g.of(t.measured)
	count, used := t.measured, float64(t.measured.used)
	count.join(t.absent)
	switch {
	case ratio > 1:
		count.join(t.unready)
	case ratio < 1:
		used += g.assumed(t.absent)
	}
	again := ratio
	if count.pods > t.measured.pods {
		again = used / g.of(count)
	}
	if Within(hpa, again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current
	}
	want := roundUp(again * float64(count.pods))
	if count.pods > t.measured.pods && (again < 1 && want > current || again > 1 && want < current) {
		return current
	}
	return want
}

func (p *part) join(o part) {
	p.pods, p.used, p.asked = p.pods+o.pods, plus(p.used, o.used), plus(p.asked, o.asked)
}

// roundUp forgives what floating point adds. What no int32 holds becomes the
// nearest that one does: Go does not say what such a conversion makes of it,
// and far too much load must not look like none.
func roundUp(f float64) int32 { return saturated(math.Ceil(f - 1e-9)) }

// saturated is the int32 nearest to a whole number; 0 for what is no number.
func saturated(f float64) int32 {
	if math.IsNaN(f) {
		return 0
	}
	return int32(min(max(f, math.MinInt32), math.MaxInt32))
}

// roundUp64 is roundUp for what is counted in thousandths.
func roundUp64(f float64) int64 {
	const most = 1 << 62
	return int64(min(max(math.Ceil(f-1e-9), -most), most))
}

// milli is a quantity in thousandths, and the nearest number to it where an
// int64 does not hold them: others choose what their metrics are.
func milli(q resource.Quantity) int64 {
	const most = math.MaxInt64 / 1000
	switch {
	case q.CmpInt64(most) >= 0:
		return math.MaxInt64
	case q.CmpInt64(-most) <= 0:
		return -math.MaxInt64
	}
	return q.MilliValue()
}

// plus adds, and stays at the greatest or least number there is.
func plus(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < -math.MaxInt64-b:
		return -math.MaxInt64
	}
	return a + b
}

// Within says that a ratio of use to target is too near to one to act on.
func Within(hpa Autoscaler, ratio float64) bool {
	up, down := Rules(hpa)
	rule := up
	if ratio < 1 {
		rule = down
	}
	allowed := hpa.Tolerance
	if rule.Tolerance != nil {
		allowed = rule.Tolerance.AsApproximateFloat64()
	}
	return math.Abs(ratio-1) <= allowed+1e-9
}

// requested is what a pod's containers ask for, in thousandths.
func requested(p *corev1.Pod, name corev1.ResourceName, container string) (int64, error) {
	var total int64
	found := false
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		if container != "" && c.Name != container {
			continue
		}
		found = true
		q, ok := c.Resources.Requests[name]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
		}
		total = plus(total, milli(q))
	}
	if !found {
		return 0, fmt.Errorf("container %s not present in pod %s", container, p.Name)
	}
	return total, nil
}
