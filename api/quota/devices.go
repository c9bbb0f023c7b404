package quota

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ResourceClaims are what devices are asked for with. DeviceClasses say under
// what other names they count.
var (
	ResourceClaims = schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceclaims"}
	DeviceClasses  = schema.GroupResource{Group: resourcev1.GroupName, Resource: "deviceclasses"}
)

// requestsOf precedes the name of what is requested.
const requestsOf = corev1.DefaultResourceRequestsPrefix

// deviceUsage counts the devices that a claim can be given under their class,
// and under the names of the extended resources that the class serves: its own,
// and the one made of its name (KEP-5004). A claim that was made for a pod's
// extended resources does not count again what the pod counts itself.
func (c Counter) deviceUsage(out corev1.ResourceList, claim *resourcev1.ResourceClaim) {
	asked := map[corev1.ResourceName]int64{}
	for class, n := range devicesByClass(&claim.Spec.Devices) {
		out[corev1.ResourceName(class+corev1.ResourceClaimsPerClass)] = *resource.NewQuantity(n, resource.DecimalSI)
		asked[corev1.ResourceName(corev1.ResourceImplicitExtendedClaimsPerClass+class)] += n
		if name := c.serves(class); name != "" {
			asked[corev1.ResourceName(requestsOf+name)] += n
		}
	}
	pods := c.countedByPod(claim)
	for name, n := range asked {
		own := pods[name]
		if n -= own.Value(); n > 0 {
			out[name] = *resource.NewQuantity(n, resource.DecimalSI)
		}
	}
}

// serves is the extended resource that a class names, "" for none.
func (c Counter) serves(class string) string {
	if c.Class == nil {
		return ""
	}
	if k := c.Class(class); k != nil && k.Spec.ExtendedResourceName != nil {
		return *k.Spec.ExtendedResourceName
	}
	return ""
}

// countedByPod is what the pod counts for whose extended resources a claim was
// made: nothing when it has ended or is not there.
func (c Counter) countedByPod(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	ref := metav1.GetControllerOfNoCopy(claim)
	if c.Pod == nil || claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" {
		return nil
	}
	out := corev1.ResourceList{}
	if p := c.Pod(claim.Namespace, ref.Name); p != nil && p.UID == ref.UID {
		podUsage(out, p, c.Now)
	}
	return out
}

// devicesByClass counts the most devices of each class that a claim can be
// given: of alternatives the one that takes most of a class, and where all
// devices of a node are asked for, as many as a claim can hold.
func devicesByClass(c *resourcev1.DeviceClaim) map[string]int64 {
	total := map[string]int64{}
	for i := range c.Requests {
		r := &c.Requests[i]
		if e := r.Exactly; e != nil {
			total[e.DeviceClassName] += devices(e.AllocationMode, e.Count)
		}
		most := map[string]int64{}
		for j := range r.FirstAvailable {
			s := &r.FirstAvailable[j]
			most[s.DeviceClassName] = max(most[s.DeviceClassName], devices(s.AllocationMode, s.Count))
		}
		for class, n := range most {
			total[class] += n
		}
	}
	return total
}

func devices(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	switch {
	case mode == resourcev1.DeviceAllocationModeAll:
		return resourcev1.AllocationResultsMaxSize
	case mode == resourcev1.DeviceAllocationModeExactCount || mode == "":
		return max(count, 1)
	}
	return 0 // of a mode that is not known nothing is given
}
