package resourcequota

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
	}, time.Now())
	if want := "count/deployments.apps=1,pods=2,requests.cpu=500m,secrets=3,services=0"; quota.Text(got.Used) != want {
		t.Errorf("got %s, want %s", quota.Text(got.Used), want)
	}
	if quota.Text(got.Hard) != quota.Text(q.Spec.Hard) {
		t.Errorf("hard is %v", got.Hard)
	}
	gr := schema.GroupResource{Resource: "pods"}
	if !shrank(gr, done, pod, time.Now()) || shrank(gr, pod, pod, time.Now()) || shrank(gr, pod, done, time.Now()) {
		t.Error("a pod gives back its share when it ends, and only then")
	}
}
