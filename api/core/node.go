package core

import (
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

func node() *api.Kind {
	k := row("Node", "nodes", "node", false, "minions", "no")
	k.New, k.NewList = api.New[corev1.Node](), api.New[corev1.NodeList]()
	k.Strategy = api.Strategy{
		Default:       api.On(defaultNode),
		PrepareCreate: api.On(func(n *corev1.Node) { n.Spec.ConfigSource, n.Status.Config = nil, nil }),
		PrepareUpdate: api.On2(prepareNodeUpdate),
		Validate:      api.Check(validateNode),
		ValidateUpdate: api.Check2(func(n, old *corev1.Node) field.ErrorList {
			// Upstream checks the spec as on create too, so that clients see
			// some errors twice.
			errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
			errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs)...)
			return append(errs, validateNodeUpdate(n, old)...)
		}),
		Warnings: warnings(nodeWarnings),
	}
	k.Subresources = map[string]api.Subresource{
		"status": status(func(n, old *corev1.Node) {
			n.Spec = *old.Spec.DeepCopy()
			if old.Status.Config == nil {
				n.Status.Config = nil
			}
		}, validateNodeUpdate),
		"proxy": proxy("NodeProxyOptions"),
	}
	selectable(k, func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
	}, "spec.unschedulable")
	info := corev1.NodeSystemInfo{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Status", "The status of the node"),
		printing.String("Roles", "The roles of the node"),
		printing.AgeColumn(),
		printing.String("Version", info["kubeletVersion"]),
		printing.Wide(printing.String("Internal-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"])),
		printing.Wide(printing.String("External-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"])),
		printing.Wide(printing.String("OS-Image", info["osImage"])),
		printing.Wide(printing.String("Kernel-Version", info["kernelVersion"])),
		printing.Wide(printing.String("Container-Runtime", info["containerRuntimeVersion"])),
	}
	k.Cells = api.Cells(nodeCells)
	return k
}

// defaultNode fills allocatable from capacity, for kubelets that report only
// the latter.
func defaultNode(n *corev1.Node) {
	podspec.RoundUp(n.Status.Capacity)
	podspec.RoundUp(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	// podCIDR is the first of podCIDRs, for clients of either.
	switch s := &n.Spec; {
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	}
}

func prepareNodeUpdate(n, old *corev1.Node) {
	n.Status = *old.Status.DeepCopy()
	if old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
}

func nodeCells(n *corev1.Node) []any {
	state := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			state = "Ready"
			if c.Status != corev1.ConditionTrue {
				state = "NotReady"
			}
			break
		}
	}
	if n.Spec.Unschedulable {
		state += ",SchedulingDisabled"
	}
	info := n.Status.NodeInfo
	return []any{
		n.Name, state, printing.Or(strings.Join(nodeRoles(n), ","), printing.None), printing.Age(n.CreationTimestamp),
		info.KubeletVersion, nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		printing.Or(info.OSImage, printing.Unknown), kernel(&info),
		printing.Or(info.ContainerRuntimeVersion, printing.Unknown),
	}
}

func kernel(info *corev1.NodeSystemInfo) string {
	if info.KernelVersion != "" && info.Architecture != "" {
		return info.KernelVersion + " (" + info.Architecture + ")"
	}
	return printing.Or(info.KernelVersion, printing.Unknown)
}

// nodeRoles reads the roles from the labels that name them.
func nodeRoles(n *corev1.Node) []string {
	roles := map[string]bool{}
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles[role] = true
		} else if k == "kubernetes.io/role" && v != "" {
			roles[v] = true
		}
	}
	out := make([]string, 0, len(roles))
	for r := range roles {
		out = append(out, r)
	}
	sort.Strings(out)
	return out
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return printing.None
}
