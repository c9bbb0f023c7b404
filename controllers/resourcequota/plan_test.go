package resourcequota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/quota"
)

func TestStatus(t *testing.T) {
	q := &corev1.ResourceQuota{}
	q.Spec.Hard = corev1.ResourceList{}
	for _, n := range []corev1.ResourceName{"pods", "requests.cpu", "count/deployments.apps", "secrets", "services"} {
		q.Spec.Hard[n] = resource.MustParse("10")
	}
	q.Status.Used = corev1.ResourceList{"secrets": resource.MustParse("3")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}}}}}}
	done := pod.DeepCopy()
	done.Status.Phase = corev1.PodSucceeded
	got := Status(q, func(gr schema.GroupResource) ([]any, bool) {
		switch gr.Resource {
		case "pods":
			return []any{pod, pod, done}, true
		case "deployments":
			return []any{nil}, true
		}
		return nil, gr.Resource != "secrets"
	}, quota.Counter{Now: time.Now()})
	if want := "count/deployments.apps=1,pods=2,requests.cpu=500m,secrets=3,services=0"; quota.Text(got.Used) != want {
		t.Errorf("got %s, want %s", quota.Text(got.Used), want)
	}
	if quota.Text(got.Hard) != quota.Text(q.Spec.Hard) {
		t.Errorf("hard is %v", got.Hard)
	}
	gr, counter := schema.GroupResource{Resource: "pods"}, quota.Counter{Now: time.Now()}
	if !shrank(gr, done, pod, counter) || shrank(gr, pod, pod, counter) || shrank(gr, pod, done, counter) {
		t.Error("a pod gives back its share when it ends, and only then")
	}
}

// A name that pods and claims count under is the sum of both, and stays as it
// was while one of them is not known.
func TestStatusOfDevices(t *testing.T) {
	const name = "requests.deviceclass.resource.kubernetes.io/gold"
	q := &corev1.ResourceQuota{}
	q.Spec.Hard = corev1.ResourceList{name: resource.MustParse("10")}
	q.Status.Used = corev1.ResourceList{name: resource.MustParse("7")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"deviceclass.resource.kubernetes.io/gold": resource.MustParse("2")}}}}}}
	claim := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gold", Count: 3}}}}}}
	for _, tc := range []struct {
		known bool
		want  int64
	}{{true, 5}, {false, 7}} {
		got := Status(q, func(gr schema.GroupResource) ([]any, bool) {
			if gr == quota.ResourceClaims {
				return []any{claim}, tc.known
			}
			return []any{pod}, true
		}, quota.Counter{}).Used[name]
		if got.Value() != tc.want {
			t.Errorf("%+v: %s", tc, got.String())
		}
	}
}

// A pod that gets a deadline leaves the quotas of those without.
func TestMoved(t *testing.T) {
	q := &corev1.ResourceQuota{}
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
	endless, ending := &corev1.Pod{}, &corev1.Pod{Spec: corev1.PodSpec{ActiveDeadlineSeconds: ptr.To[int64](30)}}
	gr := schema.GroupResource{Resource: "pods"}
	if !moved(ending, endless) || moved(ending, ending) || moved(endless, endless) {
		t.Error("only a new deadline moves a pod")
	}
	if n := freed(q, gr, ending, endless, quota.Counter{})["pods"]; n.Value() != 1 {
		t.Errorf("%v pods are given back", n.Value())
	}
	for _, tc := range []struct {
		now, old *string
		want     bool
	}{{ptr.To("a"), ptr.To("b"), true}, {ptr.To("a"), nil, true}, {ptr.To("a"), ptr.To("a"), false}} {
		claim := func(class *string) *corev1.PersistentVolumeClaim {
			return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: class}}
		}
		if got := moved(claim(tc.now), claim(tc.old)); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	// A claim that wants another class stays with the one that its volume has.
	was := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("a")},
		Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: ptr.To("a")}}
	wants := was.DeepCopy()
	wants.Spec.VolumeAttributesClassName = ptr.To("b")
	has := wants.DeepCopy()
	has.Status.CurrentVolumeAttributesClassName = ptr.To("b")
	a := &corev1.ResourceQuota{}
	a.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
		{ScopeName: corev1.ResourceQuotaScopeVolumeAttributesClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"a"}}}}
	claims := schema.GroupResource{Resource: "persistentvolumeclaims"}
	if n := freed(a, claims, wants, was, quota.Counter{})["persistentvolumeclaims"]; !n.IsZero() {
		t.Errorf("%v claims are given back that are still to be changed", n.String())
	}
	if n := freed(a, claims, has, wants, quota.Counter{})["persistentvolumeclaims"]; n.Value() != 1 || !moved(has, wants) {
		t.Errorf("%v claims are given back that were changed", n.String())
	}
}
