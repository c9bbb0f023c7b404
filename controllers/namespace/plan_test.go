package namespace

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/controllers"
)

func TestConditions(t *testing.T) {
	at := metav1.NewTime(time.Unix(1e9, 0))
	r := &Report{
		Discovery: errors.New("metrics.k8s.io/v1beta1 is down"),
		Failures:  []error{errors.New("b failed"), errors.New("a failed")},
		Left: []Left{
			{GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Count: 2, Finalizers: map[string]int{"x/y": 2}},
			{GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, Count: 1, Finalizers: map[string]int{"x/y": 1, "a/b": 1}},
		},
	}
	if r.Done() {
		t.Error("done")
	}
	want := map[corev1.NamespaceConditionType]string{
		corev1.NamespaceDeletionDiscoveryFailure: "True DiscoveryFailed Discovery failed for some groups: metrics.k8s.io/v1beta1 is down",
		corev1.NamespaceDeletionGVParsingFailure: "False ParsedGroupVersions All legacy kube types successfully parsed",
		corev1.NamespaceDeletionContentFailure:   "True ContentDeletionFailed Failed to delete all resource types, 2 remaining: a failed, b failed",
		corev1.NamespaceContentRemaining:         "True SomeResourcesRemain Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
		corev1.NamespaceFinalizersRemaining:      "True SomeFinalizersRemain Some content in the namespace has finalizers remaining: a/b in 1 resource instances, x/y in 3 resource instances",
	}
	got := Conditions(nil, r, at)
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for _, c := range got {
		if s := string(c.Status) + " " + c.Reason + " " + c.Message; s != want[c.Type] {
			t.Errorf("%s:\ngot  %s\nwant %s", c.Type, s, want[c.Type])
		}
	}
	later := metav1.NewTime(at.Add(time.Minute))
	for _, c := range Conditions(got, r, later) {
		if !c.LastTransitionTime.Equal(&at) {
			t.Errorf("%s moved without a change", c.Type)
		}
	}
	for _, c := range Conditions(got, &Report{}, later) {
		if c.Status != corev1.ConditionFalse {
			t.Errorf("%+v", c)
		}
	}
}

func TestPhase(t *testing.T) {
	res := func(group, name string, namespaced bool, verbs ...string) controllers.Resource {
		return controllers.Resource{GroupVersionResource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}, Namespaced: namespaced, Verbs: verbs}
	}
	pods, rest := phase([]controllers.Resource{
		res("", "secrets", true), res("", "pods", true), res("", "nodes", false), res("metrics.k8s.io", "pods", true, "get", "list"), res("x.io", "pods", true, "list", "delete"),
	})
	if len(pods) != 1 || pods[0].Group != "" || len(rest) != 2 || rest[0].Resource != "secrets" || rest[1].Group != "x.io" {
		t.Errorf("%v, then %v", pods, rest)
	}
}
