package controllers_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

func claimTemplate(ns, name string) *resourcev1.ResourceClaimTemplate {
	t := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	t.Spec.Labels = map[string]string{"from": "template"}
	t.Spec.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "any"}}}
	return t
}

func claimingPod(ns, name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"hollow": "no"}}}
	p.Spec.NodeName = "n"
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("t")}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}}}
	return p
}

// A claim is made from its template, named in the pod's status, reserved once
// somebody has allocated it, freed when the pod has finished, and gone with
// it; a device's taint drives its users away when their patience ends.
func TestResourceClaims(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("claims"), t.Context()
	_, err := client.Nodes.In(w.root, "").Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	w.must(err)
	first, err := client.Pods.In(w.root, ns).Create(ctx, claimingPod(ns, "first"))
	w.must(err)
	eventually(w, client.Events, ns, "the lack of a template", func(evs []*corev1.Event) bool {
		for _, e := range evs {
			if e.Reason == "FailedResourceClaimCreation" && e.Source.Component == "resource_claim" && strings.Contains(e.Message, `PodResourceClaim gpu: resource claim template "t"`) {
				return true
			}
		}
		return false
	})
	_, err = client.ResourceClaimTemplates.In(w.root, ns).Create(ctx, claimTemplate(ns, "t"))
	w.must(err)
	first = object(w, client.Pods, ns, "first", "told its claim's name", func(p *corev1.Pod) bool { return len(p.Status.ResourceClaimStatuses) == 1 })
	name := *first.Status.ResourceClaimStatuses[0].ResourceClaimName
	claim, err := client.ResourceClaims.In(w.root, ns).Get(ctx, name)
	w.must(err)
	if !strings.HasPrefix(name, "first-gpu-") || claim.Labels["from"] != "template" || !metav1.IsControlledBy(claim, first) {
		t.Errorf("made %+v", claim.ObjectMeta)
	}

	// Where the pod runs is decided already, so nobody but the controller
	// reserves what somebody allocates.
	allocate(w, claim)
	object(w, client.ResourceClaims, ns, name, "reserved", func(c *resourcev1.ResourceClaim) bool {
		return len(c.Status.ReservedFor) == 1 && c.Status.ReservedFor[0].UID == first.UID
	})
	// Deleted early, it stays until its pod is done.
	w.must(client.ResourceClaims.In(w.root, ns).Delete(ctx, name, client.Options{}))
	_, err = client.Pods.In(w.root, ns).Mutate(ctx, "first", "status", func(p *corev1.Pod) (bool, error) {
		p.Status.Phase = corev1.PodSucceeded
		return true, nil
	})
	w.must(err)
	object(w, client.ResourceClaims, ns, name, "gone", func(c *resourcev1.ResourceClaim) bool { return c == nil })
	if items, _, err := client.ResourceClaims.In(w.root, ns).List(ctx, client.Options{}); err != nil || len(items) != 0 {
		t.Errorf("left over: %v %v", items, err)
	}

	// A second pod, whose device becomes sick.
	second, err := client.Pods.In(w.root, ns).Create(ctx, claimingPod(ns, "second"))
	w.must(err)
	second = object(w, client.Pods, ns, "second", "told its claim's name", func(p *corev1.Pod) bool { return len(p.Status.ResourceClaimStatuses) == 1 })
	claim, err = client.ResourceClaims.In(w.root, ns).Get(ctx, *second.Status.ResourceClaimStatuses[0].ResourceClaimName)
	w.must(err)
	allocate(w, claim)
	sick := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "d.example.com", NodeName: ptr.To("n"), Pool: resourcev1.ResourcePool{Name: "n", Generation: 1, ResourceSliceCount: 1},
		Devices: []resourcev1.Device{{Name: "dev", Taints: []resourcev1.DeviceTaint{{Key: "sick", Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &metav1.Time{Time: time.Now().Add(-time.Hour)}}}}},
	}}
	_, err = client.ResourceSlices.In(w.root, "").Create(ctx, sick)
	w.must(err)
	object(w, client.Pods, ns, "second", "evicted", func(p *corev1.Pod) bool { return p == nil || p.DeletionTimestamp != nil })
	object(w, client.ResourceClaims, ns, claim.Name, "gone", func(c *resourcev1.ResourceClaim) bool { return c == nil })
	eventually(w, client.Events, ns, "the eviction", func(evs []*corev1.Event) bool {
		for _, e := range evs {
			if e.Reason == "DeviceTaintManagerEviction" && e.InvolvedObject.UID == second.UID && e.Source.Component == "device-taint-eviction-controller" {
				return true
			}
		}
		return false
	})
}

// allocate is what a scheduler does, but for the reservation.
func allocate(w *world, claim *resourcev1.ResourceClaim) {
	w.t.Helper()
	in := client.ResourceClaims.In(w.root, claim.Namespace)
	_, err := in.Mutate(w.t.Context(), claim.Name, "", func(c *resourcev1.ResourceClaim) (bool, error) {
		c.Finalizers = append(c.Finalizers, resourcev1.Finalizer)
		return true, nil
	})
	w.must(err)
	_, err = in.Mutate(w.t.Context(), claim.Name, "status", func(c *resourcev1.ResourceClaim) (bool, error) {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "r", Driver: "d.example.com", Pool: "n", Device: "dev"},
		}}}
		return true, nil
	})
	w.must(err)
}
