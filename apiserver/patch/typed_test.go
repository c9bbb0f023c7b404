package patch

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func deployment() *appsv1.Deployment {
	three, ten := int32(3), int64(10)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Labels: map[string]string{"a": "1", "b": "2"}, Finalizers: []string{"x/y"}}}
	d.Spec.Replicas = &three
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: "RollingUpdate", RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &intstr.IntOrString{IntVal: 1}}}
	d.Spec.Template.Spec = corev1.PodSpec{NodeSelector: map[string]string{"n": "1"}, TerminationGracePeriodSeconds: &ten,
		Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	return d
}

func running() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{
		Conditions: []corev1.PodCondition{{Type: "PodScheduled", Status: "True"}}, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "c", RestartCount: 3}}}}
}

// podStatus is what kubelets send.
const podStatus = `{"metadata":{"uid":"u"},"status":{"$setElementOrder/conditions":[{"type":"Ready"},{"type":"PodScheduled"}],` +
	`"conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2020-01-02T03:04:05Z"}],"phase":"Running",` +
	`"containerStatuses":[{"name":"c","ready":true,"restartCount":0,"image":"i","imageID":"","state":{"running":{"startedAt":"2020-01-02T03:04:05Z"}},"lastState":{}}]}}`

// TestListsThatMerge holds random lists, patches and orders against the way
// over maps.
func TestListsThatMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	types := []string{"A", "B", "C", "D", "E"}
	some := func() []string {
		rng.Shuffle(len(types), func(i, j int) { types[i], types[j] = types[j], types[i] })
		return slices.Clone(types[:rng.IntN(len(types))])
	}
	fast := 0
	for range 3000 {
		p := running()
		p.Status.Conditions = nil
		for _, c := range some() {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(c), Status: "False", Reason: "Old"})
		}
		change := []any{}
		for _, c := range some() {
			change = append(change, map[string]any{"type": c, "status": "True"})
		}
		status := map[string]any{"conditions": change}
		if rng.IntN(2) == 0 {
			order := []any{}
			for _, c := range some() {
				order = append(order, map[string]any{"type": c})
			}
			status["$setElementOrder/conditions"] = order
		}
		js, err := json.Marshal(map[string]any{"status": status})
		if err != nil {
			t.Fatal(err)
		}
		for _, strategic := range []bool{true, false} {
			got := p.DeepCopy()
			doc, _, err := Decode(js)
			if err != nil {
				t.Fatal(err)
			}
			if !Onto(got, doc, strategic) {
				continue
			}
			fast++
			if want := overMaps(t, p, string(js), strategic); !apiequality.Semantic.DeepEqual(got, want) {
				t.Fatalf("%s (strategic %v) on %+v gives\n%+v, want\n%+v", js, strategic, p.Status.Conditions, got.Status.Conditions, want.(*corev1.Pod).Status.Conditions)
			}
		}
	}
	if fast < 1000 {
		t.Errorf("only %d of 6000 were merged in place", fast)
	}
}

// TestOnto holds what is set in place against the way over maps.
func TestOnto(t *testing.T) {
	cm := &corev1.ConfigMap{Data: map[string]string{"a": "b"}, BinaryData: map[string][]byte{"x": {1}}}
	quota := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"cpu": resource.MustParse("1")}}}
	for _, tt := range []struct {
		obj   runtime.Object
		patch string
		fast  bool // in place, at least by one of the two ways
	}{
		{deployment(), `{}`, true},
		{deployment(), `{"metadata":{"labels":{"a":"x","b":null,"c":"y"}}}`, true},
		{deployment(), `{"metadata":{"labels":null,"annotations":{}}}`, true},
		{deployment(), `{"metadata":{"finalizers":["a/b","c/d"]}}`, true},
		{deployment(), `{"metadata":{"deletionGracePeriodSeconds":7,"generation":4}}`, true},
		{deployment(), `{"apiVersion":"apps/v1","kind":"Deployment"}`, true},
		{deployment(), `{"spec":{"replicas":0,"paused":true,"minReadySeconds":5}}`, true},
		{deployment(), `{"spec":{"replicas":null,"revisionHistoryLimit":2}}`, true},
		{deployment(), `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":"25%"}}}}`, true},
		{deployment(), `{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}`, true},
		{deployment(), `{"spec":{"template":{"metadata":{"annotations":{"r":"now"}},"spec":{"nodeSelector":{"m":"2"}}}}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"securityContext":{"runAsUser":1,"seLinuxOptions":{"level":"s0"}}}}}}`, true},
		{deployment(), `{"status":{"replicas":2}}`, true},
		{deployment(), `{"metadata":{"creationTimestamp":"2020-01-02T03:04:05Z"}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"j"}]}}}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"j","ports":[{"containerPort":1}],"env":[{"name":"a","value":"b"}]}]}}}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":null,"command":["a"]}]}}}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]}}}}`, false},
		{deployment(), `{"spec":{"template":{"spec":{"containers":[{"name":"c"},{"name":"c"}]}}}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"c"}],"containers":[{"name":"b","image":"j"}]}}}}`, true},
		{deployment(), `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"b"}],"containers":[{"name":"b","image":"j"}]}}}}`, false},
		{deployment(), `{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}}}`, false},
		{deployment(), `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"}]}}}}`, false},
		{deployment(), `{"spec":{"template":{"spec":{"tolerations":[{"key":"a"},{"key":"b","operator":"Exists"}]}}}}`, true},
		{running(), podStatus, true},
		{running(), `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, true},
		{running(), `{"status":{"podIPs":[{"ip":"10.0.0.1"},{"ip":"fd::1"}]}}`, true},
		{running(), `{"status":{"containerStatuses":[{"name":"c","state":{"running":null}}]}}`, false},
		{running(), `{"status":{"containerStatuses":[]}}`, true},
		{deployment(), `{"spec":{"replicas":"3"}}`, false},
		{deployment(), `{"spec":{"replicas":3000000000}}`, false},
		{deployment(), `{"spec":{"replicas":1.5}}`, false},
		{deployment(), `{"spec":{"unknown":1}}`, false},
		{deployment(), `{"spec":{"Replicas":1}}`, false},
		{deployment(), `{"spec":3}`, false},
		{deployment(), `{"metadata":{"labels":{"a":1}}}`, false},
		{deployment(), `{"metadata":{"labels":["a"]}}`, false},
		{cm, `{"data":{"k":"v"},"binaryData":{"x":null,"y":"AQI="},"immutable":false}`, true},
		{cm, `{"binaryData":{"y":"?"}}`, false},
		{quota, `{"spec":{"hard":{"cpu":"2"},"scopes":["BestEffort"]}}`, false},
		{quota, `{"spec":{"scopes":["BestEffort"]}}`, true},
	} {
		fast := false
		for _, strategic := range []bool{false, true} {
			got := tt.obj.DeepCopyObject()
			doc, _, err := Decode([]byte(tt.patch))
			if err != nil {
				t.Fatal(err)
			}
			if !Onto(got, doc, strategic) {
				continue
			}
			fast = true
			if want := overMaps(t, tt.obj, tt.patch, strategic); !apiequality.Semantic.DeepEqual(got, want) {
				t.Errorf("%s (strategic %v) gives\n%+v, want\n%+v", tt.patch, strategic, got, want)
			}
		}
		if fast != tt.fast {
			t.Errorf("%s: in place %v", tt.patch, fast)
		}
	}
	doc, _, _ := Decode([]byte(`{"metadata":{"labels":{"$patch":"replace"}}}`))
	if Onto(deployment(), doc, true) {
		t.Error("a directive was taken for a label")
	}
	doc, _, _ = Decode([]byte(`{"metadata":{"finalizers":["z/z"]}}`))
	if Onto(deployment(), doc, true) {
		t.Error("a list that merges was replaced")
	}
}

func overMaps(t *testing.T, obj runtime.Object, patch string, strategic bool) runtime.Object {
	t.Helper()
	doc, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	if strategic {
		doc, _, _, err = Strategic(doc, []byte(patch), obj)
	} else {
		doc, _, err = Merge(doc, []byte(patch))
	}
	if err != nil {
		t.Fatal(err)
	}
	out := obj.DeepCopyObject()
	switch o := out.(type) {
	case *appsv1.Deployment:
		*o = appsv1.Deployment{}
	case *corev1.ConfigMap:
		*o = corev1.ConfigMap{}
	case *corev1.Pod:
		*o = corev1.Pod{}
	case *corev1.ResourceQuota:
		*o = corev1.ResourceQuota{}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(doc, out, true); err != nil {
		t.Fatal(patch, err)
	}
	return out
}

// TestApplyDescribes: equal descriptions for equal merges whatever the values,
// and others for others.
func TestApplyDescribes(t *testing.T) {
	describe := func(obj *appsv1.Deployment, conf string) []byte {
		t.Helper()
		doc, _, err := Decode([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		out, ok := Apply(obj, doc)
		if !ok {
			t.Fatal(conf)
		}
		return out
	}
	other := deployment()
	other.Labels["a"], other.Name = "7", "e"
	if a, b := describe(deployment(), `{"metadata":{"labels":{"a":"2"}}}`), describe(other, `{"metadata":{"labels":{"a":"3"}}}`); !bytes.Equal(a, b) {
		t.Errorf("%q is not %q", a, b)
	}
	bare := deployment()
	bare.Labels = nil
	more := deployment()
	more.Labels["more"] = ""
	seen := map[string]int{}
	for i, d := range [][]byte{
		describe(deployment(), `{}`),
		describe(deployment(), `{"metadata":{}}`),
		describe(deployment(), `{"metadata":{"labels":{}}}`),
		describe(deployment(), `{"metadata":{"labels":{"a":"1"}}}`),
		describe(deployment(), `{"metadata":{"labels":{"a":"2"}}}`),
		describe(deployment(), `{"metadata":{"labels":{"b":"9"}}}`),
		describe(bare, `{"metadata":{"labels":{"a":"2"}}}`),
		describe(more, `{"metadata":{"labels":{"a":"2"}}}`),
		describe(deployment(), `{"spec":{"replicas":3}}`),
		describe(deployment(), `{"spec":{"replicas":4}}`),
		describe(deployment(), `{"spec":{"replicas":0}}`),
		describe(deployment(), `{"spec":{"paused":false}}`),
	} {
		if j, ok := seen[string(d)]; ok {
			t.Errorf("%d and %d are both %q", i, j, d)
		}
		seen[string(d)] = i
	}
	for _, conf := range []string{`{"metadata":{"labels":null}}`, `{"metadata":{"finalizers":["a"]}}`, `{"spec":{"x":1}}`, `{"spec":{"template":{"spec":{"containers":[]}}}}`} {
		doc, _, _ := Decode([]byte(conf))
		if _, ok := Apply(deployment(), doc); ok {
			t.Errorf("%s was merged in place", conf)
		}
	}
}

func BenchmarkPodStatus(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		doc, _, _ := Decode([]byte(podStatus))
		if !Onto(running(), doc, true) {
			b.Fatal("not in place")
		}
	}
}

func BenchmarkOnto(b *testing.B) {
	d := deployment()
	doc, _, _ := Decode([]byte(`{"metadata":{"labels":{"a":"x"}},"spec":{"replicas":4}}`))
	b.ReportAllocs()
	for b.Loop() {
		Onto(d, doc, true)
	}
}
