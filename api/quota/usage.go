// Package quota counts what objects use of a ResourceQuota: objects and
// quotas come in, resource lists and refusals come out. Admission and the
// controller count by it, so that they agree.
package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
)

var one = resource.MustParse("1")

// countName is the name under which a quota counts objects of any kind.
func countName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + gr.String())
}

// shortNames are the core kinds that are counted under their own name too.
var shortNames = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceQuotas,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
}

// Counter says what objects use. Of some that depends on others, which it asks
// for; the zero value knows none and counts as of year 1.
type Counter struct {
	Now time.Time
	// Class returns a device class, and Pod a pod; nil where there is none.
	Class func(name string) *resourcev1.DeviceClass
	Pod   func(namespace, name string) *corev1.Pod
}

// Usage is all that an object uses, under every name a quota may give it.
func (c Counter) Usage(gr schema.GroupResource, obj any) corev1.ResourceList {
	out := corev1.ResourceList{countName(gr): one}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(out, o, c.Now)
	case *corev1.Service:
		serviceUsage(out, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(out, o)
	case *resourcev1.ResourceClaim:
		c.deviceUsage(out, o)
	default:
		if name := corev1.ResourceName(gr.Resource); gr.Group == "" && slices.Contains(shortNames, name) {
			out[name] = one
		}
	}
	return out
}

// podUsage counts a pod until it has ended, or should have: one whose node
// does not answer does not hold its quota for ever.
func podUsage(out corev1.ResourceList, p *corev1.Pod, now time.Time) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return
	}
	if p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && now.After(p.DeletionTimestamp.Time) {
		return
	}
	out[corev1.ResourcePods] = one
	for name, q := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}) {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, isHugePages(name):
			out[name], out["requests."+name] = q, q
		case strings.Contains(string(name), "/"):
			out["requests."+name] = q
		}
	}
	for name, q := range resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{}) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			out["limits."+name] = q
		}
	}
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func serviceUsage(out corev1.ResourceList, s *corev1.Service) {
	out[corev1.ResourceServices] = one
	ports := int64(0)
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		out[corev1.ResourceServicesLoadBalancers] = one
		if a := s.Spec.AllocateLoadBalancerNodePorts; a == nil || *a {
			ports = int64(len(s.Spec.Ports))
			break
		}
		for i := range s.Spec.Ports {
			if s.Spec.Ports[i].NodePort != 0 {
				ports++
			}
		}
	}
	if ports > 0 {
		out[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(ports, resource.DecimalSI)
	}
}

func claimUsage(out corev1.ResourceList, c *corev1.PersistentVolumeClaim) {
	out[corev1.ResourcePersistentVolumeClaims] = one
	class := c.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	const ofClass = ".storageclass.storage.k8s.io/"
	if class != "" {
		out[corev1.ResourceName(class+ofClass+"persistentvolumeclaims")] = one
	}
	size, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return
	}
	// A claim that is being shrunk back holds what was allocated.
	if have, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && have.Cmp(size) > 0 {
		size = have
	}
	out[corev1.ResourceRequestsStorage] = size
	if class != "" {
		out[corev1.ResourceName(class+ofClass+"requests.storage")] = size
	}
}

// Resources are the resources whose objects a name of a quota is about; their
// versions are not known.
func Resources(name corev1.ResourceName) []schema.GroupResource {
	n := string(name)
	core := func(resource string) []schema.GroupResource { return []schema.GroupResource{{Resource: resource}} }
	switch rest, counted := strings.CutPrefix(n, "count/"); {
	case counted:
		return []schema.GroupResource{schema.ParseGroupResource(rest)}
	case slices.Contains(shortNames, name):
		return core(n)
	case strings.HasPrefix(n, "services."):
		return core("services")
	case name == corev1.ResourceRequestsStorage, strings.Contains(n, ".storageclass.storage.k8s.io/"):
		return core("persistentvolumeclaims")
	case strings.HasSuffix(n, corev1.ResourceClaimsPerClass):
		return []schema.GroupResource{ResourceClaims}
	case strings.HasPrefix(n, requestsOf) && strings.Contains(n, "/"):
		// A device may be asked for as an extended resource, and by a claim.
		return append(core("pods"), ResourceClaims)
	}
	return core("pods")
}

// Mask leaves of a list what the names of hard limit.
func Mask(list, hard corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range list {
		if _, ok := hard[name]; ok {
			out[name] = q
		}
	}
	return out
}

// Add adds b to a, in place, and returns a.
func Add(a, b corev1.ResourceList) corev1.ResourceList {
	for name, q := range b {
		sum := a[name].DeepCopy()
		sum.Add(q)
		a[name] = sum
	}
	return a
}

// Subtract returns a without b.
func Subtract(a, b corev1.ResourceList) corev1.ResourceList {
	out := a.DeepCopy()
	for name, q := range b {
		rest := out[name].DeepCopy()
		rest.Sub(q)
		out[name] = rest
	}
	return out
}
