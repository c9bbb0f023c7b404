package autoscaling

import (
	"encoding/json"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

const everyMetric = `
metadata: {name: web, annotations: {mine: kept}}
spec:
  maxReplicas: 5
  scaleTargetRef: {kind: Deployment, name: web}
  metrics:
  - {type: Pods, pods: {metric: {name: hits}, target: {type: AverageValue, averageValue: "10"}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}
  - {type: External, external: {metric: {name: queue}, target: {type: Value, value: "3"}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: web, target: {type: Utilization, averageUtilization: 70}}}
  - {type: Object, object: {metric: {name: rps}, describedObject: {kind: Service, name: web}, target: {type: Value, value: "9"}}}
  behavior:
    scaleUp: {selectPolicy: Max, policies: [{type: Pods, value: 4, periodSeconds: 15}]}
status:
  desiredReplicas: 2
  currentMetrics:
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 55, averageValue: 100m}}}
  conditions: [{type: AbleToScale, status: "True"}]
`

// What v1 has no fields for comes back from its annotations.
func TestV1CarriesEverything(t *testing.T) {
	hub := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict([]byte(everyMetric), hub); err != nil {
		t.Fatal(err)
	}
	before := hub.DeepCopy()
	v1, err := toV1(hub)
	if err != nil {
		t.Fatal(err)
	}
	if n := v1.Spec.TargetCPUUtilizationPercentage; n == nil || *n != 60 {
		t.Errorf("target of the CPU: %v", n)
	}
	if n := v1.Status.CurrentCPUUtilizationPercentage; n == nil || *n != 55 {
		t.Errorf("current CPU: %v", n)
	}
	if got, want := v1.Annotations[behaviorAnnotation], `{"ScaleUp":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":null},"ScaleDown":null}`; got != want {
		t.Errorf("behavior:\n%s\nwant\n%s", got, want)
	}
	if !apiequality.Semantic.DeepEqual(hub, before) {
		t.Error("the conversion changed its argument")
	}
	back, err := fromV1(v1)
	if err != nil {
		t.Fatal(err)
	}
	// The CPU's utilization moves to the front, as it is v1's own field.
	cpu := hub.Spec.Metrics[1]
	hub.Spec.Metrics = append([]autoscalingv2.MetricSpec{cpu, hub.Spec.Metrics[0]}, hub.Spec.Metrics[2:]...)
	if !apiequality.Semantic.DeepEqual(sameMetrics(back), sameMetrics(hub)) {
		a, _ := json.Marshal(back)
		b, _ := json.Marshal(hub)
		t.Errorf("came back as\n%s\nwant\n%s", a, b)
	}
}

// sameMetrics orders the metrics by their JSON.
func sameMetrics(a *autoscalingv2.HorizontalPodAutoscaler) map[string]any {
	out := map[string]any{"status": a.Status, "behavior": a.Spec.Behavior, "annotations": a.Annotations}
	for i := range a.Spec.Metrics {
		text, _ := json.Marshal(a.Spec.Metrics[i])
		out[string(text)] = true
	}
	return out
}

// A broken annotation costs the metric, not the object.
func TestV1IgnoresBrokenAnnotations(t *testing.T) {
	in := &autoscalingv1.HorizontalPodAutoscaler{}
	in.Annotations = map[string]string{metricsAnnotation: "{", "mine": "kept"}
	hub, err := fromV1(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(hub.Spec.Metrics) != 0 || len(hub.Annotations) != 1 || hub.Annotations["mine"] != "kept" {
		t.Errorf("%v %v", hub.Spec.Metrics, hub.Annotations)
	}
}
