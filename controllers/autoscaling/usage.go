package autoscaling

import (
	"errors"
	"fmt"
	"math"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/coxswain/cox/controllers/pods"
)

// Sample is what one pod uses, by container.
type Sample map[string]corev1.ResourceList

// Resource computes what a resource metric asks for, of all containers or of
// the one named. samples are by pod name.
func Resource(hpa *autoscalingv2.HorizontalPodAutoscaler, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget,
	covered []*corev1.Pod, samples map[string]Sample, current int32) (int32, autoscalingv2.MetricValueStatus, error) {
	var used, asked int64
	measured, absent, unready := 0, 0, 0
	var absentAsk, unreadyAsk int64
	for _, p := range covered {
		if !pods.Active(p) {
			continue
		}
		request, err := requested(p, name, container)
		if err != nil && target.Type == autoscalingv2.UtilizationMetricType {
			return 0, autoscalingv2.MetricValueStatus{}, err
		}
		s, ok := samples[p.Name]
		switch {
		case p.Status.Phase == corev1.PodPending || name == corev1.ResourceCPU && !pods.Ready(p):
			unready++
			unreadyAsk += request
			continue
		case !ok:
			absent++
			absentAsk += request
			continue
		}
		for c, list := range s {
			if q, ok := list[name]; ok && (container == "" || c == container) {
				used += q.MilliValue()
			}
		}
		asked += request
		measured++
	}
	if measured == 0 {
		return 0, autoscalingv2.MetricValueStatus{}, errors.New("no metrics returned from resource metrics API")
	}
	perPod := used / int64(measured)
	value := autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(perPod, resource.DecimalSI)}
	// What every pod should use, in the same unit as used.
	goal := func(pods int, ask int64) float64 {
		if target.Type == autoscalingv2.UtilizationMetricType && target.AverageUtilization != nil {
			return float64(ask) * float64(*target.AverageUtilization) / 100
		}
		if target.AverageValue != nil {
			return float64(target.AverageValue.MilliValue()) * float64(pods)
		}
		return 0
	}
	if target.Type == autoscalingv2.UtilizationMetricType {
		if asked == 0 {
			return 0, value, fmt.Errorf("no requests for %s", name)
		}
		percent := int32(used * 100 / asked)
		value.AverageUtilization = &percent
	}
	base := goal(measured, asked)
	if base == 0 {
		return 0, value, errors.New("the target is zero")
	}
	ratio := float64(used) / base
	count := measured
	if absent+unready > 0 {
		// Pods without a measure argue for standing still: they count as idle
		// against growing, and as on target against shrinking.
		again := (float64(used) + goal(absent, absentAsk)) / goal(measured+absent, asked+absentAsk)
		if ratio > 1 {
			again = float64(used) / goal(measured+absent+unready, asked+absentAsk+unreadyAsk)
		}
		if ratio > 1 && again < 1 || ratio < 1 && again > 1 {
			return current, value, nil
		}
		ratio, count = again, measured+absent
		if ratio > 1 {
			count += unready
		}
	}
	if Within(hpa, ratio) {
		return current, value, nil
	}
	want := int32(math.Ceil(ratio*float64(count) - 1e-9))
	if ratio < 1 && want > current || ratio > 1 && want < current {
		want = current
	}
	return want, value, nil
}

// Within says that a ratio of use to target is too near to one to act on.
func Within(hpa *autoscalingv2.HorizontalPodAutoscaler, ratio float64) bool {
	up, down := Rules(hpa)
	rule := up
	if ratio < 1 {
		rule = down
	}
	allowed := tolerance
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
		total += q.MilliValue()
	}
	if !found {
		return 0, fmt.Errorf("container %s not present in pod %s", container, p.Name)
	}
	return total, nil
}
