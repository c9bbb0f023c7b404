package apiserver

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// An object that went through settle is what its protobuf form brings back.
func TestClearing(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{}, Finalizers: []string{}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"a": "b"},
			Containers:   []corev1.Container{{Name: "c", Args: []string{}, Env: []corev1.EnvVar{{Name: "x"}}, SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{}}}}},
		},
	}
	clear := clearingOf(reflect.TypeFor[corev1.Pod](), map[reflect.Type]bool{})
	if !clear(reflect.ValueOf(pod).Elem()) {
		t.Error("nothing was found empty")
	}
	if pod.Labels != nil || pod.Finalizers != nil || pod.Spec.Containers[0].Args != nil || pod.Spec.Containers[0].SecurityContext.Capabilities.Add != nil {
		t.Errorf("empty values stay: %+v", pod)
	}
	if len(pod.Spec.NodeSelector) != 1 || len(pod.Spec.Containers[0].Env) != 1 {
		t.Errorf("values are gone: %+v", pod)
	}
	if clear(reflect.ValueOf(pod).Elem()) {
		t.Error("something empty is found twice")
	}

	data, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var back corev1.Pod
	if err := back.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*pod, back) {
		t.Errorf("the stored bytes bring back\n%+v, not\n%+v", back, *pod)
	}

	secret := &corev1.Secret{Data: map[string][]byte{"k": {}}, Immutable: new(bool)}
	if c := clearingOf(reflect.TypeFor[corev1.Secret](), map[reflect.Type]bool{}); c(reflect.ValueOf(secret).Elem()) || secret.Data["k"] == nil {
		t.Errorf("empty bytes are dropped: %+v", secret)
	}
	policy := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{}}}}}
	clearingOf(reflect.TypeFor[networkingv1.NetworkPolicy](), map[reflect.Type]bool{})(reflect.ValueOf(policy).Elem())
	if len(policy.Spec.Ingress) != 1 || policy.Spec.Ingress[0].From != nil || !equality.Semantic.DeepEqual(policy, policy.DeepCopy()) {
		t.Errorf("a list in a list: %+v", policy.Spec.Ingress)
	}
}

func BenchmarkClearing(b *testing.B) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: make([]corev1.Container, 2), Volumes: make([]corev1.Volume, 2)}}
	clear := clearingOf(reflect.TypeFor[corev1.Pod](), map[reflect.Type]bool{})
	b.ReportAllocs()
	for b.Loop() {
		clear(reflect.ValueOf(pod).Elem())
	}
}

// Times and quantities get the form that they are read back in, whatever form
// they came in: field management tells them apart in lists owned as a whole.
func TestSettledForms(t *testing.T) {
	here := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, at := range map[string]time.Time{"UTC": here, "elsewhere": here.In(time.FixedZone("x", 3600)), "now": time.Now().Truncate(time.Second)} {
		slice := &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Devices: []resourcev1.Device{{
			Name: "d", Taints: []resourcev1.DeviceTaint{{Key: "k", TimeAdded: &metav1.Time{Time: at}}},
		}}}}
		var back resourcev1.ResourceSlice
		settleAndBack(t, slice, &back)
		if got := slice.Spec.Devices[0].Taints[0].TimeAdded.Time; got != back.Spec.Devices[0].Taints[0].TimeAdded.Time {
			t.Errorf("%s: %#v is read back as %#v", name, got, back.Spec.Devices[0].Taints[0].TimeAdded.Time)
		}
	}
	for _, q := range []quantity.Quantity{{}, quantity.MustParse("0.1"), quantity.MustParse("1024Mi"), quantity.MustParse("1Gi")} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Divisor: q}}}},
		}}}}
		var back corev1.Pod
		settleAndBack(t, pod, &back)
		got, want := pod.Spec.Containers[0].Env[0].ValueFrom.ResourceFieldRef.Divisor, back.Spec.Containers[0].Env[0].ValueFrom.ResourceFieldRef.Divisor
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%#v is read back as %#v", got, want)
		}
	}
}

func settleAndBack(t *testing.T, obj interface{ Marshal() ([]byte, error) }, back interface{ Unmarshal([]byte) error }) {
	t.Helper()
	v := reflect.ValueOf(obj).Elem()
	clearingOf(v.Type(), map[reflect.Type]bool{})(v)
	data, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
}

func TestSettleNumbers(t *testing.T) {
	in := map[string]any{"a": 2.0, "b": 2.5, "c": int64(2), "d": []any{1e3, map[string]any{"e": -4.0}}, "f": 1e21, "g": "2.0", "h": nil}
	settleNumbers(in)
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, back) {
		t.Errorf("settled %#v, read back %#v", in, back)
	}
}
