package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

type resourceQuantity = resource.Quantity

// nonMissing is what a container that asks for nothing counts as in scores.
var nonMissing = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.DecimalSI),
}

func no(r *Reason) []*Reason { return []*Reason{r} }

// nodeUnschedulable refuses cordoned nodes to pods that do not tolerate it.
type nodeUnschedulable struct{}

var unschedulableTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

func (nodeUnschedulable) Name() string { return "NodeUnschedulable" }
func (nodeUnschedulable) Wakes() Event { return NodeAdded | NodeUnschedulable | PodUpdated }
func (nodeUnschedulable) For(p *Pod) Check {
	if tolerates(p.Spec.Tolerations, &unschedulableTaint) {
		return nil
	}
	reason := no(&Reason{Plugin: "NodeUnschedulable", Text: "node(s) were unschedulable", Unresolvable: true})
	return func(n *Node) []*Reason {
		if n.Spec.Unschedulable {
			return reason
		}
		return nil
	}
}

// nodeName keeps a pod that names its node to it.
type nodeName struct{}

func (nodeName) Name() string { return "NodeName" }
func (nodeName) Wakes() Event { return NodeAdded | PodUpdated }
func (nodeName) For(p *Pod) Check {
	want := p.Spec.NodeName
	if want == "" {
		return nil
	}
	reason := no(&Reason{Plugin: "NodeName", Text: "node(s) didn't match the requested node name", Unresolvable: true})
	return func(n *Node) []*Reason {
		if n.Name != want {
			return reason
		}
		return nil
	}
}

// taintToleration refuses nodes with a NoSchedule or NoExecute taint that the
// pod does not tolerate.
type taintToleration struct{}

func (taintToleration) Name() string { return "TaintToleration" }
func (taintToleration) Wakes() Event { return NodeAdded | NodeTaints | PodUpdated }
func (taintToleration) For(p *Pod) Check {
	tolerations := p.Spec.Tolerations
	return func(n *Node) []*Reason {
		for i := range n.Spec.Taints {
			t := &n.Spec.Taints[i]
			if t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectNoExecute {
				continue
			}
			if !tolerates(tolerations, t) {
				return no(&Reason{Plugin: "TaintToleration", Text: fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value), Unresolvable: true})
			}
		}
		return nil
	}
}

func tolerates(tolerations []corev1.Toleration, t *corev1.Taint) bool {
	return schedulinghelper.TolerationsTolerateTaint(klog.Background(), tolerations, t, true)
}

// nodeAffinity applies nodeSelector and required node affinity.
type nodeAffinity struct{}

func (nodeAffinity) Name() string { return "NodeAffinity" }
func (nodeAffinity) Wakes() Event { return NodeAdded | NodeLabels | PodUpdated }
func (nodeAffinity) For(p *Pod) Check {
	a := p.Spec.Affinity
	required := a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if len(p.Spec.NodeSelector) == 0 && !required {
		return nil
	}
	want := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	reason := no(&Reason{Plugin: "NodeAffinity", Text: "node(s) didn't match Pod's node affinity/selector", Unresolvable: true})
	return func(n *Node) []*Reason {
		if ok, err := want.Match(n.Node); err != nil || !ok {
			return reason
		}
		return nil
	}
}

// nodePorts refuses nodes on which a host port of the pod is taken.
type nodePorts struct{}

func (nodePorts) Name() string { return "NodePorts" }
func (nodePorts) Wakes() Event { return NodeAdded | PodRemoved | PodUpdated }
func (nodePorts) For(p *Pod) Check {
	if len(p.ports) == 0 {
		return nil
	}
	ports := p.ports
	reason := no(&Reason{Plugin: "NodePorts", Text: "node(s) didn't have free ports for the requested pod ports"})
	return func(n *Node) []*Reason {
		for taken := range n.ports {
			for _, want := range ports {
				if want.conflicts(taken) {
					return reason
				}
			}
		}
		return nil
	}
}

// conflicts says that both cannot be bound: the same port and protocol, on
// the same address or on all of them.
func (a hostPort) conflicts(b hostPort) bool {
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || anyAddress(a.ip) || anyAddress(b.ip))
}

func anyAddress(ip string) bool { return ip == "0.0.0.0" || ip == "::" }

// deviceResources says which extended resources are devices on a node.
type deviceResources interface {
	serves(n *Node, resource corev1.ResourceName) bool
}

// resourcesFit refuses nodes that have less left than the pod requests, other
// than of what is allocated as devices (nil: nothing is).
type resourcesFit struct{ devices deviceResources }

func (resourcesFit) Name() string { return "NodeResourcesFit" }
func (resourcesFit) Wakes() Event {
	return NodeAdded | NodeAllocatable | PodRemoved | PodUpdated | DevicesChanged
}
func (f resourcesFit) For(p *Pod) Check {
	want := p.request
	const plugin = "NodeResourcesFit"
	return func(n *Node) []*Reason {
		var out []*Reason
		lacking := func(name corev1.ResourceName, want, used, have int64) {
			if want > 0 && want > have-used {
				out = append(out, &Reason{Plugin: plugin, Text: "Insufficient " + string(name), Unresolvable: want > have})
			}
		}
		if int64(len(n.pods))+1 > n.maxPods {
			out = append(out, &Reason{Plugin: plugin, Text: "Too many pods", Unresolvable: n.maxPods == 0})
		}
		lacking(corev1.ResourceCPU, want.MilliCPU, n.used.MilliCPU, n.allocatable.MilliCPU)
		lacking(corev1.ResourceMemory, want.Memory, n.used.Memory, n.allocatable.Memory)
		lacking(corev1.ResourceEphemeralStorage, want.Ephemeral, n.used.Ephemeral, n.allocatable.Ephemeral)
		for name, v := range want.Scalar {
			if f.devices != nil && f.devices.serves(n, name) {
				continue
			}
			lacking(name, v, n.used.Scalar[name], n.allocatable.Scalar[name])
		}
		return out
	}
}
