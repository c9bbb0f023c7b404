package plugins

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// priority turns the name of a priority class into a number, and keeps the
// default class single.
func priority(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), admit: d.priorityAdmit, validate: d.priorityValidate}
}

func (d deps) priorityAdmit(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if old, isUpdate := a.Old.(*corev1.Pod); isUpdate && a.Operation == admission.Update {
		if pod.Spec.Priority == nil {
			pod.Spec.Priority = old.Spec.Priority
		}
		if pod.Spec.PreemptionPolicy == nil {
			pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
		}
		return nil
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	class, err := d.priorityClass(ctx, a, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	if class != nil {
		pod.Spec.PriorityClassName, value = class.Name, class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return forbid(a, fmt.Sprintf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value))
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return forbid(a, fmt.Sprintf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// priorityClass returns the class of the name, or the default one (nil when
// there is none) when the name is empty.
func (d deps) priorityClass(ctx context.Context, a *admission.Attributes, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		return d.defaultPriorityClass(ctx)
	}
	class, err := get(ctx, client.PriorityClasses.In(d.door, ""), name)
	if apierrors.IsNotFound(err) {
		return nil, forbid(a, fmt.Sprintf("no PriorityClass with name %v was found", name))
	}
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to get PriorityClass with name %s: %w", name, err))
	}
	return class, nil
}

// defaultPriorityClass is the least of those marked as default; there is one
// or none, unless two were made at the same time.
func (d deps) defaultPriorityClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	all, err := list(ctx, client.PriorityClasses.In(d.door, ""))
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to list PriorityClasses: %w", err))
	}
	var out *schedulingv1.PriorityClass
	for _, c := range all {
		if c.GlobalDefault && (out == nil || c.Value < out.Value) {
			out = c
		}
	}
	return out, nil
}

func (d deps) priorityValidate(ctx context.Context, a *admission.Attributes) error {
	class, ok := a.Object.(*schedulingv1.PriorityClass)
	if !ok || a.Subresource != "" || !class.GlobalDefault {
		return nil
	}
	if old, ok := a.Old.(*schedulingv1.PriorityClass); ok && old != nil && old.GlobalDefault {
		return nil
	}
	current, err := d.defaultPriorityClass(ctx)
	if err != nil {
		return err
	}
	if current != nil && current.Name != class.Name {
		return forbid(a, fmt.Sprintf("PriorityClass %v is already marked as default. Only one default can exist", current.Name))
	}
	return nil
}

// defaultTolerationSeconds lets pods stay a while on a node that is lost.
func defaultTolerationSeconds(notReady, unreachable *int64) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), admit: func(_ context.Context, a *admission.Attributes) error {
		pod, ok := newPod(a)
		if !ok {
			return nil
		}
		for _, lost := range []struct {
			key     string
			seconds *int64
		}{{corev1.TaintNodeNotReady, notReady}, {corev1.TaintNodeUnreachable, unreachable}} {
			key := lost.key
			if !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
				return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
			}) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
					Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(*lost.seconds),
				})
			}
		}
		return nil
	}}
}

// taintNodesByCondition keeps pods off a new node until it says that it is
// ready.
func taintNodesByCondition() *plugin {
	return &plugin{ops: ops(admission.Create), admit: func(_ context.Context, a *admission.Attributes) error {
		node, ok := a.Object.(*corev1.Node)
		if !ok || !is(a, nodesResource, "") {
			return nil
		}
		taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
			node.Spec.Taints = append(node.Spec.Taints, taint)
		}
		return nil
	}}
}

// runtimeClass adds what a pod's runtime class says about overhead and
// scheduling.
func runtimeClass(d deps) *plugin {
	return &plugin{ops: ops(admission.Create), admit: d.runtimeClassAdmit, validate: d.runtimeClassValidate}
}

func (d deps) runtimeClassAdmit(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok || pod.Spec.RuntimeClassName == nil {
		return nil
	}
	name := *pod.Spec.RuntimeClassName
	class, err := get(ctx, client.RuntimeClasses.In(d.door, ""), name)
	if apierrors.IsNotFound(err) {
		return forbid(a, fmt.Sprintf("pod rejected: RuntimeClass %q not found", name))
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("look up RuntimeClass %q: %w", name, err))
	}
	if class.Overhead != nil {
		if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return forbid(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for k, v := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[k]; ok && have != v {
			return forbid(a, fmt.Sprintf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, have))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[k] = v
	}
	for _, t := range class.Scheduling.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return equality.Semantic.DeepEqual(have, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}

func (d deps) runtimeClassValidate(ctx context.Context, a *admission.Attributes) error {
	pod, ok := newPod(a)
	if !ok || pod.Spec.Overhead == nil {
		return nil
	}
	if pod.Spec.RuntimeClassName != nil {
		class, err := get(ctx, client.RuntimeClasses.In(d.door, ""), *pod.Spec.RuntimeClassName)
		if err == nil && class.Overhead != nil {
			if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
				return forbid(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
			}
			return nil
		}
	}
	return forbid(a, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
}

// podTopologyLabels copies the zone and region of the node to a pod that is
// being bound to it, or made on it.
func podTopologyLabels(d deps) *plugin {
	return &plugin{ops: ops(admission.Create), admit: func(ctx context.Context, a *admission.Attributes) error {
		to, name := boundTo(a)
		if name == "" {
			return nil
		}
		node, err := client.Nodes.In(d.door, "").Get(ctx, name, atHand())
		if err != nil {
			return nil // binding itself finds out
		}
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			if v, ok := node.Labels[key]; ok {
				if to.Labels == nil {
					to.Labels = map[string]string{}
				}
				to.Labels[key] = v
			}
		}
		return nil
	}}
}

// boundTo names the node that a write puts a pod on, and whose metadata tells
// the pod's labels.
func boundTo(a *admission.Attributes) (*metav1.ObjectMeta, string) {
	switch o := a.Object.(type) {
	case *corev1.Pod:
		if is(a, podsResource, "") {
			return &o.ObjectMeta, o.Spec.NodeName
		}
	case *corev1.Binding:
		ours := is(a, podsResource, "binding") || a.Resource.Group == "" && a.Resource.Resource == "bindings"
		if ours && (o.Target.Kind == "Node" || o.Target.Kind == "") {
			return &o.ObjectMeta, o.Target.Name
		}
	}
	return nil, ""
}
