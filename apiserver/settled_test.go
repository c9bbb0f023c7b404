package apiserver

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
