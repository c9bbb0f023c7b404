package serviceaccount

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWanted(t *testing.T) {
	lives := &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
	deleted := lives.DeepCopy()
	deleted.DeletionTimestamp = &metav1.Time{}
	ends := &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	for _, c := range []struct {
		n    *corev1.Namespace
		have bool
		want bool
	}{{lives, false, true}, {&corev1.Namespace{}, false, true}, {lives, true, false}, {deleted, false, false}, {ends, false, false}} {
		if got := wanted(c.n, c.have); got != c.want {
			t.Errorf("%+v, there %v: %v", c.n.Status, c.have, got)
		}
	}
}
