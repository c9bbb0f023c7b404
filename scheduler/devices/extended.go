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
	// at is the container's place in the order of their start. An initial one
	// has ended before the next starts; a sidecar starts like one, and stays.
	at               int
	initial, sidecar bool
}

// extendedOf lists what a pod's containers ask for that a class serves.
func (l *Ledger) extendedOf(p *corev1.Pod) []extended {
	var out []extended
	add := func(at int, c *corev1.Container, initial, sidecar bool) {
		n := 0
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Requests)) {
			class, q := l.ClassFor(name), c.Resources.Requests[name]
			if class == "" || q.Value() <= 0 {
				continue
			}
			out = append(out, extended{c.Name, name, class, q.Value(), fmt.Sprintf("container-%d-request-%d", at, n), at, initial, sidecar})
			n++
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		add(i, c, !sidecar, sidecar)
	}
	for i := range p.Spec.Containers {
		add(len(p.Spec.InitContainers)+i, &p.Spec.Containers[i], false, false)
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
	var made []extended
	var mappings []corev1.ContainerExtendedResourceRequest
	tell := func(e extended, request string) {
		mappings = append(mappings, corev1.ContainerExtendedResourceRequest{ContainerName: e.container, ResourceName: string(e.resource), RequestName: request})
	}
	for _, initial := range []bool{false, true} {
		for _, e := range a.extended {
			if e.initial != initial || ServedBy(node, e.resource) {
				continue
			}
			if initial {
				var lent []string
				lent, e.count = e.borrow(made)
				for _, request := range lent {
					tell(e, request)
				}
			}
			if e.count > 0 {
				made = append(made, e)
				tell(e, e.request)
			}
		}
	}
	var requests []resourcev1.DeviceRequest
	for _, e := range made {
		requests = append(requests, resourcev1.DeviceRequest{Name: e.request, Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: e.class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: e.count,
		}})
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

// borrow chooses requests of other containers whose devices an init container
// uses before they do, or after they have, and returns how many devices it
// lacks then. More than it asks for it gets only where nothing else will do.
func (e extended) borrow(made []extended) (requests []string, lacks int64) {
	lacks = e.count
	var larger string
	for _, o := range made {
		// A sidecar that was started before goes on using its own.
		if o.resource != e.resource || o.sidecar && o.at < e.at {
			continue
		}
		switch {
		case o.count <= lacks:
			requests = append(requests, o.request)
			lacks -= o.count
		case larger == "":
			larger = o.request
		}
	}
	if lacks > 0 && larger != "" {
		return append(requests, larger), 0
	}
	return requests, lacks
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
