package autoscaling

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/internal/warp"
)

// measures is an API server with metrics, all of which are what it was given.
type measures struct {
	pods   []runtime.Object
	values runtime.Object
}

func (m measures) Do(_ context.Context, r *client.Request) (*client.Result, error) {
	if r.Verb == client.List {
		return &client.Result{List: &client.ListResult{Items: m.pods}}, nil
	}
	return &client.Result{Object: m.values}, nil
}

func (measures) Watch(context.Context, *client.Request) (watch.Interface, error) { return nil, nil }

// FuzzMetrics reads what metrics APIs answer: whatever that is, the size stays
// within the autoscaler's bounds, and what is not measured is not a size.
func FuzzMetrics(f *testing.F) {
	const text = `{"pods":[{"metadata":{"name":"p0"},"timestamp":"2001-09-09T01:46:40Z","window":"30s","containers":[{"name":"c","usage":{"cpu":"500m","memory":"8E"}},{"name":"c","usage":{"cpu":"9999999999999999999"}}]},{"metadata":{"name":"p1"},"timestamp":null,"window":"-1h","containers":[{"usage":{"cpu":"-3"}}]}],
		"values":{"items":[{"describedObject":{"name":"p0"},"value":"8E"},{"describedObject":{"name":"p1"},"value":"-1m"},{"value":"1e300"}]}}`
	var whole any
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		f.Fatal(err)
	}
	for _, how := range []string{"", "\x01\x02\x01", "\x02\x03\x01\x01\x02\x05", "\x03\x01\x01\x04\x04", "\x48\x08\x23\x03\x8a\x01\x02"} {
		f.Add([]byte(how), int64(500), int32(50))
		f.Add([]byte(how), int64(1), int32(1))
	}
	f.Fuzz(func(t *testing.T, how []byte, milli int64, percent int32) {
		if milli < 1 || percent < 1 {
			return // the API refuses such targets
		}
		answers, ok := warp.Value(whole, how).(map[string]any)
		if !ok {
			return
		}
		door := measures{}
		door.values = &unstructured.Unstructured{Object: object(answers["values"])}
		list, _ := answers["pods"].([]any)
		for _, p := range list {
			door.pods = append(door.pods, &unstructured.Unstructured{Object: object(p)})
		}
		hpa := scaler(1, 10, nil)
		var covered []*corev1.Pod
		for i := range 2 {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}}
			p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: now.Add(-time.Hour)}
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			covered = append(covered, p)
		}
		q := &question{hpa: hpa, pods: covered, selector: labels.Everything(), observed: 2, specified: 2, now: now}
		average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewMilliQuantity(milli, resource.DecimalSI)}
		value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: resource.NewMilliQuantity(milli, resource.DecimalSI)}
		part := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}
		c := &Controller{env: controllers.Env{Client: door}}
		var proposals []Proposal
		for _, m := range []autoscalingv2.MetricSpec{
			{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: part}},
			{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: average}},
			{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: average}},
			{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: average}},
			{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: value}},
		} {
			proposals = append(proposals, c.propose(t.Context(), q, &m))
		}
		for _, p := range proposals {
			plan := Make(hpa, 2, 2, []Proposal{p}, &History{}, now)
			if plan.Replicas < 1 || plan.Replicas > 10 || p.Err != nil && plan.Rescale {
				t.Errorf("%s: %+v makes %d", p.Name, p, plan.Replicas)
			}
			if _, err := json.Marshal(plan.Status); err != nil {
				t.Error(err)
			}
		}
	})
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// TestMoreThanNumbersHold: far too much load is far too much load, and who lets
// a target grow without bound gets that.
func TestMoreThanNumbersHold(t *testing.T) {
	hpa := scaler(1, 100, nil)
	one := resource.MustParse("1m")
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &one}
	average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &one}
	ready := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	covered := []*corev1.Pod{ready, ready}
	huge := milli(resource.MustParse("8E"))
	if huge != math.MaxInt64 || milli(resource.MustParse("-1e60")) != -math.MaxInt64 || plus(huge, huge) != math.MaxInt64 || plus(-huge, -huge) != -math.MaxInt64 {
		t.Errorf("%d", huge)
	}
	for name, target := range map[string]autoscalingv2.MetricTarget{"value": value, "average": average} {
		if n, _, err := Total(hpa, target, covered, huge, 2, 2); n != math.MaxInt32 || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if n, _, err := Pods(hpa, average, covered, map[string]int64{"p": huge}, 2); n != math.MaxInt32 || err != nil {
		t.Errorf("of pods: %d, %v", n, err)
	}
	cpu := resource.MustParse("1m")
	ready.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: cpu}}}}
	part := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)}
	samples := map[string]Sample{"p": {Usage: map[string]corev1.ResourceList{"c": {corev1.ResourceMemory: resource.MustParse("8E")}}}}
	if n, v, err := Resource(hpa, corev1.ResourceMemory, "", part, covered, samples, 2, now); n != math.MaxInt32 || *v.AverageUtilization != math.MaxInt32 || err != nil {
		t.Errorf("of a resource: %d, %v", n, err)
	}
	for _, kind := range []autoscalingv2.HPAScalingPolicyType{autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy} {
		hpa := scaler(1, 1000, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{Policies: []autoscalingv2.HPAScalingPolicy{{Type: kind, Value: math.MaxInt32, PeriodSeconds: 15}}}})
		if plan := Make(hpa, 200, 200, []Proposal{{Replicas: 900, Name: "cpu"}}, &History{}, now); plan.Replicas != 900 {
			t.Errorf("without a bound on %s it grows to %d", kind, plan.Replicas)
		}
	}
}
