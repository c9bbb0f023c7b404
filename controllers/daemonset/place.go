package daemonset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/coxswain/cox/controllers/pods"
)

// Fit is what a DaemonSet wants of a node.
type Fit struct {
	Run  bool // a pod should be there
	Stay bool // one that is there may stay
}

// placer judges nodes for one DaemonSet.
type placer struct {
	nodeName    string
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
}

func newPlacer(ds *appsv1.DaemonSet) placer {
	spec := &ds.Spec.Template.Spec
	return placer{
		nodeName:    spec.NodeName,
		affinity:    nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *spec}),
		tolerations: tolerations(spec),
	}
}

// on judges a node: a taint that only forbids scheduling lets a pod that is
// there stay.
func (p *placer) on(n *corev1.Node) Fit {
	if p.nodeName != "" && p.nodeName != n.Name {
		return Fit{}
	}
	if ok, err := p.affinity.Match(n); err != nil || !ok {
		return Fit{}
	}
	if p.untolerated(n, corev1.TaintEffectNoExecute) {
		return Fit{}
	}
	return Fit{Run: !p.untolerated(n, corev1.TaintEffectNoSchedule), Stay: true}
}

func (p *placer) untolerated(n *corev1.Node, effect corev1.TaintEffect) bool {
	_, found := schedulinghelper.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, p.tolerations,
		func(t *corev1.Taint) bool { return t.Effect == effect }, false)
	return found
}

// tolerations are the template's with those that every daemon's pod has, so
// that it stays on a node in trouble (API page "DaemonSet").
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	out := slices.Clone(spec.Tolerations)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		if !slices.ContainsFunc(out, func(have corev1.Toleration) bool { return have.MatchToleration(&t) && have.TolerationSeconds == nil }) {
			out = append(out, t)
		}
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return out
}

// newPod makes the pod for a node. The scheduler binds it; the only node that
// its affinity leaves is that one.
func newPod(ds *appsv1.DaemonSet, owner *metav1.OwnerReference, hash, node string) *corev1.Pod {
	p := pods.FromTemplate(&ds.Spec.Template, ds.Namespace, ds.Name, owner)
	p.Spec.Tolerations = tolerations(&p.Spec)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
	if g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; g != "" {
		p.Labels[generationLabel] = g
	}
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	if p.Spec.Affinity.NodeAffinity == nil {
		p.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}},
	}
	return p
}

const generationLabel = "pod-template-generation"

// targetNode is the node that a pod is on or meant for; "" if none is named.
func targetNode(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}
