package devices

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// extended is one container's request of an extended resource that a class
// serves, and the request of the claim that it becomes (KEP-5004).
type extended struct {
	container string
	resource  corev1.ResourceName
	class     string
	count     int64
	request   string
	// initial says that the container has ended before the others start, so
	// that it can use what one of them will.
	initial bool
}

// extendedOf lists what a pod's containers ask for that a class serves.
func (l *Ledger) extendedOf(p *corev1.Pod) []extended {
	var out []extended
	add := func(at int, c *corev1.Container, initial bool) {
		n := 0
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Requests)) {
			class, q := l.ClassFor(name), c.Resources.Requests[name]
			if class == "" || q.Value() <= 0 {
				continue
			}
			out = append(out, extended{c.Name, name, class, q.Value(), fmt.Sprintf("container-%d-request-%d", at, n), initial})
			n++
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		add(i, c, c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	}
	for i := range p.Spec.Containers {
		add(len(p.Spec.InitContainers)+i, &p.Spec.Containers[i], false)
	}
	return out
}

// ServedBy says that a node has an extended resource of its own, from a
// device plugin: only elsewhere is it allocated as a device.
func ServedBy(node *corev1.Node, name corev1.ResourceName) bool {
	q, ok := node.Status.Allocatable[name]
	return ok && !q.IsZero()
}

// forExtended returns the claim for those of the pod's extended resources that
// the node does not serve itself, and what of it is for whom: the claim that
// is there if it has the same requests, else one to be made. nil is for none.
func (a *Attempt) forExtended(node *corev1.Node) (*resourcev1.ResourceClaim, []corev1.ContainerExtendedResourceRequest) {
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	for _, initial := range []bool{false, true} {
		for _, e := range a.extended {
			if e.initial != initial || ServedBy(node, e.resource) {
				continue
			}
			name := e.request
			if at := slices.IndexFunc(requests, e.sameAs); initial && at >= 0 {
				name = requests[at].Name
			} else {
				requests = append(requests, resourcev1.DeviceRequest{Name: name, Exactly: &resourcev1.ExactDeviceRequest{
					DeviceClassName: e.class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: e.count,
				}})
			}
			mappings = append(mappings, corev1.ContainerExtendedResourceRequest{ContainerName: e.container, ResourceName: string(e.resource), RequestName: name})
		}
	}
	if len(requests) == 0 {
		return nil, nil
	}
	if a.special != nil && sameRequests(a.special.Spec.Devices.Requests, requests) {
		return a.special, mappings
	}
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: a.pod.Name + "-extended-resources-", Namespace: a.pod.Namespace,
			Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			Finalizers:  []string{resourcev1.Finalizer},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: a.pod.Name, UID: a.pod.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
			}},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}, mappings
}

func (e extended) sameAs(r resourcev1.DeviceRequest) bool {
	return r.Exactly.DeviceClassName == e.class && r.Exactly.Count == e.count
}

func sameRequests(a, b []resourcev1.DeviceRequest) bool {
	return slices.EqualFunc(a, b, func(x, y resourcev1.DeviceRequest) bool {
		return x.Name == y.Name && x.Exactly != nil && x.Exactly.DeviceClassName == y.Exactly.DeviceClassName && x.Exactly.Count == y.Exactly.Count
	})
}

// madeFor returns the pod whose extended resources a claim is for.
func madeFor(c *resourcev1.ResourceClaim) (types.UID, bool) {
	if c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return "", false
	}
	ref := metav1.GetControllerOfNoCopy(c)
	if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" {
		return "", false
	}
	return ref.UID, true
}
