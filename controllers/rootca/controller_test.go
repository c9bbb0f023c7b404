package rootca

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWant(t *testing.T) {
	made := want("ns", "pem", nil)
	if made.Namespace != "ns" || made.Name != "kube-root-ca.crt" || made.Data["ca.crt"] != "pem" || len(made.Data) != 1 || made.Annotations[annotation] != description {
		t.Fatalf("%+v", made)
	}
	if want("ns", "pem", made) != nil {
		t.Error("what is right is written again")
	}
	for what, spoil := range map[string]func(*corev1.ConfigMap){
		"another bundle": func(m *corev1.ConfigMap) { m.Data["ca.crt"] = "other" },
		"more data":      func(m *corev1.ConfigMap) { m.Data["more"] = "x" },
		"binary data":    func(m *corev1.ConfigMap) { m.BinaryData = map[string][]byte{"x": {1}} },
		"no data":        func(m *corev1.ConfigMap) { m.Data = nil },
		"no annotation":  func(m *corev1.ConfigMap) { m.Annotations = nil },
	} {
		have := made.DeepCopy()
		have.ObjectMeta = metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u", ResourceVersion: "7", Labels: map[string]string{"users": "own"}, Annotations: maps.Clone(made.Annotations)}
		spoil(have)
		before := have.DeepCopy()
		got := want("ns", "pem", have)
		if got == nil || !maps.Equal(got.Data, made.Data) || got.BinaryData != nil || got.Annotations[annotation] != description || got.UID != "u" || got.Labels["users"] != "own" {
			t.Errorf("%s: %+v", what, got)
		}
		if have.Data["ca.crt"] != before.Data["ca.crt"] || len(have.Annotations) != len(before.Annotations) {
			t.Errorf("%s: the shared object was changed", what)
		}
	}
}
