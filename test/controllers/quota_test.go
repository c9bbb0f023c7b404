package controllers_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/api/quota"
	"github.com/coxswain/cox/client"
)

func used(want string) func(*corev1.ResourceQuota) bool {
	return func(q *corev1.ResourceQuota) bool { return q != nil && quota.Text(q.Status.Used) == want }
}

func TestQuotaHoldsUnderRacingWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("tight"), t.Context()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "q"}}
	q.Spec.Hard = corev1.ResourceList{"pods": resource.MustParse("3"), "requests.cpu": resource.MustParse("1"), "count/deployments.apps": resource.MustParse("1")}
	_, err := client.ResourceQuotas.In(w.root, ns).Create(ctx, q)
	w.must(err)
	object(w, client.ResourceQuotas, ns, "q", "counted", used("count/deployments.apps=0,pods=0,requests.cpu=0"))
	pod := func() *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "p-"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m")}
		return p
	}
	bare := pod()
	bare.Spec.Containers[0].Resources.Requests = nil
	if _, err = client.Pods.In(w.root, ns).Create(ctx, bare); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "failed quota: q: must specify requests.cpu for: c") {
		t.Errorf("a pod that does not say what it needs: %v", err)
	}
	var made atomic.Int32
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			_, err := client.Pods.In(w.root, ns).Create(ctx, pod())
			switch {
			case err == nil:
				made.Add(1)
			case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"):
				t.Errorf("refused with %v", err)
			}
		})
	}
	all.Wait()
	if made.Load() != 3 {
		t.Errorf("%d pods were let in", made.Load())
	}
	pods := eventually(w, client.Pods, ns, "three", func(p []*corev1.Pod) bool { return len(p) == 3 })
	object(w, client.ResourceQuotas, ns, "q", "charged", used("count/deployments.apps=0,pods=3,requests.cpu=300m"))
	zero := int64(0)
	w.must(client.Pods.In(w.root, ns).Delete(ctx, pods[0].Name, client.Options{GracePeriodSeconds: &zero}))
	object(w, client.ResourceQuotas, ns, "q", "given back", used("count/deployments.apps=0,pods=2,requests.cpu=200m"))
	_, err = client.Pods.In(w.root, ns).Create(ctx, pod())
	w.must(err)
	_, err = client.Deployments.In(w.root, ns).Create(ctx, deployment(ns, "one", "i", 0))
	w.must(err)
	if _, err = client.Deployments.In(w.root, ns).Create(ctx, deployment(ns, "two", "i", 0)); !apierrors.IsForbidden(err) {
		t.Errorf("a second deployment: %v", err)
	}
}

// Devices count under all the names of their class, whoever asks for them, and
// what a pod asks for does not count again for the claim that is made for it.
func TestQuotaOfDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("devices"), t.Context()
	const resourceName, implicit, devices = "requests.example.com/gold", "requests.deviceclass.resource.kubernetes.io/gold", "gold.deviceclass.resource.k8s.io/devices"
	_, err := client.DeviceClasses.In(w.root, "").Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"},
		Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gold")}})
	w.must(err)
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "q"}}
	q.Spec.Hard = corev1.ResourceList{resourceName: resource.MustParse("3"), implicit: resource.MustParse("3"), devices: resource.MustParse("3")}
	_, err = client.ResourceQuotas.In(w.root, ns).Create(ctx, q)
	w.must(err)
	counted := func(what string, n, explicit int) {
		t.Helper()
		object(w, client.ResourceQuotas, ns, "q", what, used(fmt.Sprintf("%s=%d,%s=%d,%s=%d", devices, n, implicit, n, resourceName, explicit)))
	}
	counted("empty", 0, 0)
	claim := func(name string, count int64) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r",
				Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gold", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}}}}}}
	}
	_, err = client.ResourceClaims.In(w.root, ns).Create(ctx, claim("own", 1))
	w.must(err)
	counted("a claim", 1, 1)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	two := corev1.ResourceList{"example.com/gold": resource.MustParse("2")}
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: two, Limits: two}
	pod, err = client.Pods.In(w.root, ns).Create(ctx, pod)
	w.must(err)
	counted("a pod that asks", 1, 3)
	special := claim("special", 2)
	special.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	special.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}}
	_, err = client.ResourceClaims.In(w.root, ns).Create(ctx, special)
	w.must(err)
	counted("the pod's claim", 3, 3)
	if _, err = client.ResourceClaims.In(w.root, ns).Create(ctx, claim("more", 1)); !apierrors.IsForbidden(err) ||
		!strings.Contains(err.Error(), "exceeded quota: q, requested: "+devices+"=1,"+implicit+"=1,"+resourceName+"=1") {
		t.Errorf("a claim too many: %v", err)
	}
	w.must(client.ResourceClaims.In(w.root, ns).Delete(ctx, "own", client.Options{}))
	counted("given back", 2, 2)
	w.must(client.DeviceClasses.In(w.root, "").Delete(ctx, "gold", client.Options{}))
	w.must(client.ResourceClaims.In(w.root, ns).Delete(ctx, "special", client.Options{}))
	counted("the pod alone", 0, 2)
}
