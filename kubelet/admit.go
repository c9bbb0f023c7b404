package kubelet

import (
	"fmt"
	"sort"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// admit decides whether this node takes a pod that was bound to it, given the
// pods it has already. nil means yes; else the reason is the one that the
// rejected pod's status shows.
func admit(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod, static bool) *reason {
	if node == nil {
		return nil // not registered yet: static pods only
	}
	if os := pod.Spec.OS; os != nil && os.Name != "" && os.Name != corev1.Linux {
		return &reason{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if r := fits(pod, node, others); r != nil {
		return r
	}
	if static {
		return nil // it is the node's own wish
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return &reason{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	noExecute := func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }
	if taint, found := schedulinghelper.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, noExecute, false); found {
		return &reason{"TaintToleration", fmt.Sprintf("Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)}
	}
	if clash := portClash(pod, others); clash {
		return &reason{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	return nil
}

// fits holds the pod's requests against what the node has left.
func fits(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *reason {
	capacity := node.Status.Allocatable
	if most := capacity.Pods().Value(); most > 0 && int64(len(others))+1 > most {
		return insufficient("pods", 1, int64(len(others)), most)
	}
	want := counted(pod)
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range counted(o) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, string(name))
	}
	sort.Strings(names)
	for _, n := range names {
		name := corev1.ResourceName(n)
		q := want[name]
		if q.IsZero() {
			continue
		}
		have, known := capacity[name]
		if !known && name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			// Resources that the node does not know of are left to those who
			// made them up, as upstream's kubelet leaves them.
			continue
		}
		u := used[name]
		sum := u.DeepCopy()
		sum.Add(q)
		if sum.Cmp(have) > 0 {
			return insufficient(n, amount(name, q), amount(name, u), amount(name, have))
		}
	}
	return nil
}

// counted is what a pod asks of the node's own resources. The extended ones
// that the scheduler serves from devices of a claim (KEP-5004) are none of
// these, even where a device plugin once offered some of the same name.
func counted(pod *corev1.Pod) corev1.ResourceList {
	out := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	if claimed := pod.Status.ExtendedResourceClaimStatus; claimed != nil {
		for _, m := range claimed.RequestMappings {
			delete(out, corev1.ResourceName(m.ResourceName))
		}
	}
	return out
}

func amount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func insufficient(name string, requested, used, capacity int64) *reason {
	return &reason{"OutOf" + name, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
}

type hostPort struct {
	ip, protocol string
	port         int32
}

func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				hp := hostPort{p.HostIP, string(p.Protocol), p.HostPort}
				if hp.ip == "" {
					hp.ip = "0.0.0.0"
				}
				if hp.protocol == "" {
					hp.protocol = string(corev1.ProtocolTCP)
				}
				out = append(out, hp)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

func portClash(pod *corev1.Pod, others []*corev1.Pod) bool {
	mine := hostPorts(pod)
	if len(mine) == 0 {
		return false
	}
	for _, o := range others {
		for _, b := range hostPorts(o) {
			for _, a := range mine {
				if a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == "0.0.0.0" || b.ip == "0.0.0.0") {
					return true
				}
			}
		}
	}
	return false
}
