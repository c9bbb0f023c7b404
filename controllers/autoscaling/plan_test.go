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
)

var now, defaults = time.Unix(1e9, 0), Defaults()

func scaler(low, high int32, b *autoscalingv2.HorizontalPodAutoscalerBehavior) Autoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{}
	h.Spec.MinReplicas, h.Spec.MaxReplicas, h.Spec.Behavior = &low, high, b
	return Autoscaler{h, Defaults()}
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
		hpa       Autoscaler
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
			tc.hpa.Status.DesiredReplicas = 7 // as it was desired before
			plan := Make(tc.hpa, tc.have, tc.have, tc.proposals, &tc.history, now)
			desired := tc.want
			if plan.Failed != nil {
				desired = 7
			}
			got := reason(plan.Status, autoscalingv2.ScalingActive) + "|" + reason(plan.Status, autoscalingv2.ScalingLimited)
			if plan.Replicas != tc.want || plan.Rescale != (tc.want != tc.have) || got != tc.reasons || plan.Status.DesiredReplicas != desired {
				t.Errorf("%d (%v) %s, want %d %s", plan.Replicas, plan.Rescale, got, tc.want, tc.reasons)
			}
		})
	}
}

// What the behaviour does not name, the settings do.
func TestSettings(t *testing.T) {
	peak := func() *History { return &History{Recommendations: []Change{{At: now.Add(-time.Minute), Replicas: 4}}} }
	a := scaler(1, 10, nil)
	a.DownscaleStabilization = 30 * time.Second
	if n := Make(a, 5, 5, []Proposal{{Replicas: 1}}, peak(), now).Replicas; n != 1 {
		t.Errorf("an old peak holds a shrink up: %d", n)
	}
	a.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](300)}}
	if n := Make(a, 5, 5, []Proposal{{Replicas: 1}}, peak(), now).Replicas; n != 4 {
		t.Errorf("the autoscaler's own window does not: %d", n)
	}
	a.Tolerance = 0.5
	if !Within(a, 1.4) || Within(a, 1.6) || !Within(scaler(1, 10, nil), 1.1) || Within(scaler(1, 10, nil), 1.2) {
		t.Error("the tolerance is another")
	}
}

// Every metric has its place in the status, empty if it could not be had.
func TestMissingMetricsKeepTheirPlace(t *testing.T) {
	have := Proposal{Replicas: 4, Name: "cpu", Status: autoscalingv2.MetricStatus{Type: autoscalingv2.ResourceMetricSourceType}}
	lost := Proposal{Reason: "FailedGetExternalMetric", Err: errors.New("down")}
	for _, proposals := range [][]Proposal{{lost}, {lost, have, lost}} {
		st := Make(scaler(1, 10, nil), 2, 2, proposals, &History{}, now).Status
		if len(st.CurrentMetrics) != len(proposals) {
			t.Fatalf("%+v", st.CurrentMetrics)
		}
		for i, m := range st.CurrentMetrics {
			if m.Type != proposals[i].Status.Type {
				t.Errorf("%d: %q", i, m.Type)
			}
		}
	}
}

// covered makes running pods with a container that asks for 200 thousandths
// of a CPU, and their samples: -1 is not measured, -2 measured while it starts.
func covered(uses []int64) ([]*corev1.Pod, map[string]Sample) {
	var ps []*corev1.Pod
	samples := map[string]Sample{}
	for i, use := range uses {
		began := metav1.NewTime(now.Add(-time.Hour))
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began}}
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("200m")}}}}
		ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: began}
		if use == -2 {
			began, use = metav1.NewTime(now.Add(-time.Minute)), 900
			p.Status.StartTime, ready.Status = &began, corev1.ConditionFalse
		}
		p.Status.Conditions = []corev1.PodCondition{ready}
		if use >= 0 {
			samples[p.Name] = Sample{At: now, Window: 15 * time.Second, Usage: map[string]corev1.ResourceList{"c": {"cpu": *resource.NewMilliQuantity(use, resource.DecimalSI)}}}
		}
		ps = append(ps, p)
	}
	return ps, samples
}

func answer(n int32, v autoscalingv2.MetricValueStatus, err error) string {
	if err != nil {
		return err.Error()
	}
	out := fmt.Sprint(n)
	for _, q := range []*resource.Quantity{v.Value, v.AverageValue} {
		if q != nil {
			out += " " + q.String()
		}
	}
	if v.AverageUtilization != nil {
		out += fmt.Sprintf(" %d%%", *v.AverageUtilization)
	}
	return out
}

func TestResource(t *testing.T) {
	target := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)}
	average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("100m"))}
	for _, tc := range []struct {
		name   string
		target autoscalingv2.MetricTarget
		uses   []int64
		want   string
	}{
		{"on target", target, []int64{100, 100}, "2 100m 50%"},
		{"within tolerance", target, []int64{109, 109}, "2 109m 54%"},
		{"twice as much", target, []int64{200, 200}, "4 200m 100%"},
		{"half as much", target, []int64{50, 50}, "1 50m 25%"},
		{"average value", average, []int64{200, 200, 200}, "6 200m"},
		{"unmeasured against growth", target, []int64{200, -1}, "2 200m 100%"},
		{"unmeasured, still growing", target, []int64{400, -1}, "4 400m 200%"},
		{"unmeasured ones count as busy against shrinking", target, []int64{20, 20, 20, -1}, "3 20m 10%"},
		{"and hold it up", target, []int64{50, -1}, "2 50m 25%"},
		{"unmeasured ones have the average against shrinking", average, []int64{10, 10, 10, -1}, "2 10m"},
		{"starting ones argue against growth", target, []int64{200, -2}, "2 200m 100%"},
		{"starting ones do not argue against shrinking", target, []int64{40, 40, -2}, "1 40m 20%"},
		{"none measured", target, []int64{-1}, "did not receive metrics for targeted pods (pods might be unready)"},
		{"all starting", target, []int64{-2}, "did not receive metrics for targeted pods (pods might be unready)"},
	} {
		ps, samples := covered(tc.uses)
		if got := answer(Resource(scaler(1, 10, nil), "cpu", "", tc.target, ps, samples, int32(len(ps)), now)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestPods(t *testing.T) {
	target := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("10"))}
	for _, tc := range []struct {
		name   string
		values []int64 // -1 is not measured, -2 pending
		want   string
	}{
		{"on target", []int64{10, 10}, "2 10"},
		{"more", []int64{20, 30}, "5 25"},
		{"less", []int64{2, 2, 2}, "1 2"},
		{"unmeasured against growth", []int64{20, -1}, "2 20"},
		{"unmeasured against shrinking", []int64{5, -1}, "2 5"},
		{"pending against growth", []int64{20, -2}, "2 20"},
		{"none", []int64{-1}, "did not receive metrics for targeted pods (pods might be unready)"},
	} {
		values := map[string]int64{}
		ps, _ := covered(tc.values)
		for i, v := range tc.values {
			if v >= 0 {
				values[ps[i].Name] = v * 1000
			}
			if v == -2 {
				ps[i].Status.Phase = corev1.PodPending
			}
		}
		if got := answer(Pods(scaler(1, 10, nil), target, ps, values, int32(len(ps)))); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestTotal(t *testing.T) {
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(resource.MustParse("100"))}
	each := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("100"))}
	plain, lenient := scaler(1, 10, nil), scaler(1, 10, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{Tolerance: ptr.To(resource.MustParse("0.6"))}})
	for _, tc := range []struct {
		name   string
		hpa    Autoscaler
		target autoscalingv2.MetricTarget
		size   int
		total  int64
		want   string
	}{
		{"on target", plain, value, 3, 105, "3 105"},
		{"half as much again", plain, value, 2, 150, "3 150"},
		{"half as much again, which is tolerated", lenient, value, 2, 150, "2 150"},
		{"a third", plain, value, 3, 33, "1 33"},
		{"nothing runs yet", plain, value, 0, 250, "3 250"},
		{"per pod, on target", plain, each, 3, 310, "3 103334m"},
		{"per pod, more", plain, each, 3, 610, "7 203334m"},
		{"per pod, nothing runs yet", plain, each, 0, 610, "7 0"},
	} {
		ps, _ := covered(make([]int64, tc.size))
		if got := answer(Total(tc.hpa, tc.target, ps, tc.total*1000, int32(tc.size), int32(tc.size))); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestStarting(t *testing.T) {
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	for _, tc := range []struct {
		name          string
		began, turned time.Duration // ago
		ready         corev1.ConditionStatus
		want          bool
	}{
		{"ready for long", time.Hour, time.Hour, corev1.ConditionTrue, false},
		{"new and not ready", time.Minute, time.Minute, corev1.ConditionFalse, true},
		{"ready for less than the window", time.Minute, 5 * time.Second, corev1.ConditionTrue, true},
		{"ready for the whole window", time.Minute, 30 * time.Second, corev1.ConditionTrue, false},
		{"old, was ready, is not now", time.Hour, time.Minute, corev1.ConditionFalse, false},
		{"old, never ready", time.Hour, time.Hour - 10*time.Second, corev1.ConditionFalse, true},
	} {
		began := ago(tc.began)
		p := &corev1.Pod{Status: corev1.PodStatus{StartTime: &began, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: tc.ready, LastTransitionTime: ago(tc.turned)}}}}
		if got := defaults.starting(p, Sample{At: now, Window: 15 * time.Second}, now); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	if !defaults.starting(&corev1.Pod{}, Sample{}, now) {
		t.Error("nothing known of it")
	}
}
