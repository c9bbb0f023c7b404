package autoscaling

import (
	"errors"
	"fmt"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/controllers/pods"
)

var now = time.Unix(1e9, 0)

func scaler(low, high int32, b *autoscalingv2.HorizontalPodAutoscalerBehavior) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{}
	h.Spec.MinReplicas, h.Spec.MaxReplicas, h.Spec.Behavior = &low, high, b
	return h
}

func reason(st autoscalingv2.HorizontalPodAutoscalerStatus, t autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range st.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

func TestMake(t *testing.T) {
	wants := func(n ...int32) (out []Proposal) {
		for _, r := range n {
			if r < 0 {
				out = append(out, Proposal{Reason: "FailedGetResourceMetric", Err: errors.New("down")})
			} else {
				out = append(out, Proposal{Replicas: r, Name: "cpu"})
			}
		}
		return out
	}
	ago := func(d time.Duration, n int32) []Change { return []Change{{At: now.Add(-d), Replicas: n}} }
	onePod := &autoscalingv2.HorizontalPodAutoscalerBehavior{
		ScaleUp:   &autoscalingv2.HPAScalingRules{Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 60}}},
		ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0), Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 60}}},
	}
	never := &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0), SelectPolicy: ptr.To(autoscalingv2.DisabledPolicySelect)}}
	for _, tc := range []struct {
		name      string
		hpa       *autoscalingv2.HorizontalPodAutoscaler
		have      int32
		proposals []Proposal
		history   History
		want      int32
		reasons   string // ScalingActive, ScalingLimited
	}{
		{"the most that any asks for", scaler(1, 10, nil), 2, wants(2, 4, 3), History{}, 4, "True ValidMetricFound|False DesiredWithinRange"},
		{"no metrics", scaler(1, 10, nil), 3, wants(-1), History{}, 3, "False FailedGetResourceMetric|"},
		{"one missing, another grows", scaler(1, 10, nil), 2, wants(-1, 4), History{}, 4, "True ValidMetricFound|False DesiredWithinRange"},
		{"one missing holds a shrink up", scaler(1, 10, nil), 4, wants(-1, 2), History{}, 4, "False FailedGetResourceMetric|"},
		{"above the maximum", scaler(1, 10, nil), 8, wants(20), History{}, 10, "True ValidMetricFound|True TooManyReplicas"},
		{"below the minimum", scaler(2, 10, nil), 3, wants(1), History{}, 2, "True ValidMetricFound|True TooFewReplicas"},
		{"out of range without metrics", scaler(2, 10, nil), 12, wants(-1), History{}, 10, "|"},
		{"switched off by hand", scaler(1, 10, nil), 0, wants(5), History{}, 0, "False ScalingDisabled|"},
		{"doubles or adds four", scaler(1, 100, nil), 2, wants(50), History{}, 6, "True ValidMetricFound|True ScaleUpLimit"},
		{"doubles", scaler(1, 100, nil), 10, wants(50), History{}, 20, "True ValidMetricFound|True ScaleUpLimit"},
		{"has grown in this period", scaler(1, 100, nil), 20, wants(50), History{Ups: ago(5*time.Second, 10)}, 20, "True ValidMetricFound|True ScaleUpLimit"},
		{"a recent peak holds a shrink up", scaler(1, 10, nil), 5, wants(1), History{Recommendations: ago(time.Minute, 4)}, 4, "True ValidMetricFound|False DesiredWithinRange"},
		{"an old peak does not", scaler(1, 10, nil), 5, wants(1), History{Recommendations: ago(6*time.Minute, 4)}, 1, "True ValidMetricFound|False DesiredWithinRange"},
		{"one by one up", scaler(1, 10, onePod), 2, wants(9), History{}, 3, "True ValidMetricFound|True ScaleUpLimit"},
		{"one by one down", scaler(1, 10, onePod), 5, wants(1), History{}, 4, "True ValidMetricFound|True ScaleDownLimit"},
		{"one this minute already", scaler(1, 10, onePod), 5, wants(1), History{Downs: ago(30*time.Second, 1)}, 5, "True ValidMetricFound|True ScaleDownLimit"},
		{"never down", scaler(1, 10, never), 5, wants(1), History{}, 5, "True ValidMetricFound|True ScaleDownLimit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := Make(tc.hpa, tc.have, tc.have, tc.proposals, &tc.history, now)
			got := reason(plan.Status, autoscalingv2.ScalingActive) + "|" + reason(plan.Status, autoscalingv2.ScalingLimited)
			if plan.Replicas != tc.want || plan.Rescale != (tc.want != tc.have) || got != tc.reasons || plan.Status.DesiredReplicas != tc.want {
				t.Errorf("%d (%v) %s, want %d %s", plan.Replicas, plan.Rescale, got, tc.want, tc.reasons)
			}
		})
	}
}

func TestResource(t *testing.T) {
	target := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)}
	average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("100m"))}
	// Uses are thousandths of a CPU per pod, of 200 asked for; -1 is not
	// measured, -2 not ready.
	for _, tc := range []struct {
		name   string
		target autoscalingv2.MetricTarget
		uses   []int64
		want   string
	}{
		{"on target", target, []int64{100, 100}, "2"},
		{"within tolerance", target, []int64{109, 109}, "2"},
		{"twice as much", target, []int64{200, 200}, "4"},
		{"half as much", target, []int64{50, 50}, "1"},
		{"average value", average, []int64{200, 200, 200}, "6"},
		{"unmeasured against growth", target, []int64{200, -1}, "2"},
		{"unmeasured, still growing", target, []int64{400, -1}, "4"},
		{"unmeasured against shrinking", target, []int64{50, -1}, "2"},
		{"starting ones argue against growth", target, []int64{200, -2}, "2"},
		{"starting ones do not argue against shrinking", target, []int64{40, 40, -2}, "1"},
		{"none measured", target, []int64{-1}, "no metrics returned from resource metrics API"},
	} {
		var ps []*corev1.Pod
		samples := map[string]Sample{}
		for i, use := range tc.uses {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
			p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("200m")}}}}
			if use != -2 {
				pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
			}
			if use >= 0 {
				samples[p.Name] = Sample{"c": {"cpu": *resource.NewMilliQuantity(use, resource.DecimalSI)}}
			}
			ps = append(ps, p)
		}
		n, _, err := Resource(scaler(1, 10, nil), "cpu", "", tc.target, ps, samples, int32(len(ps)))
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
