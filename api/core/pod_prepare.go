package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

// preparePod gives a new pod its first status and folds what depends on its
// own labels into its selectors.
func preparePod(p *corev1.Pod, on podspec.Gates) {
	p.Generation = 1
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOSClass(&p.Spec)}
	on.DropDisabled(&p.Spec, nil)
	podspec.AppArmorFields(&p.Spec, p.Annotations)
	raiseGrace(p)
	mergeMatchLabelKeys(p)
	markGated(p)
}

// raiseGrace makes a negative grace period one second, which it means: also in
// an update, by whoever wrote it at first and repeats it.
func raiseGrace(p *corev1.Pod) {
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		*g = 1
	}
}

// markGated says in the status that the pod waits for its scheduling gates.
func markGated(p *corev1.Pod) {
	if len(p.Spec.SchedulingGates) == 0 {
		return
	}
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
		Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: metav1.Now(),
	})
}

// mergeMatchLabelKeys turns matchLabelKeys and mismatchLabelKeys of affinity
// terms and spread constraints into selector requirements on the values that
// the pod itself has (KEPs 3633 and 3243).
func mergeMatchLabelKeys(p *corev1.Pod) {
	merge := func(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if s == nil {
			return
		}
		for _, key := range keys {
			if v, ok := p.Labels[key]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{v}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		merge(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	podspec.VisitPodAffinityTerms(&p.Spec, term)
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		merge(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

func preparePodUpdate(p, old *corev1.Pod, on podspec.Gates) {
	p.Status = *old.Status.DeepCopy()
	on.DropDisabled(&p.Spec, &old.Spec)
	raiseGrace(p)
	api.CountGeneration(p, old, &p.Spec, &old.Spec)
}

// preparePodStatus takes nothing but the status.
func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = *old.Spec.DeepCopy()
	p.Generation = old.Generation
	keepMeta(p, old)
	// A kubelet that knows nothing of these does not erase them.
	def(&p.Status.QOSClass, old.Status.QOSClass)
	def(&p.Status.ObservedGeneration, old.Status.ObservedGeneration)
	if old.Status.NodeAllocatableResourceClaimStatuses == nil { // of a feature that is off (KEP-5517)
		p.Status.NodeAllocatableResourceClaimStatuses = nil
	}
}

// prepareEphemeralContainers takes nothing but the ephemeral containers.
func prepareEphemeralContainers(p, old *corev1.Pod) {
	added := p.Spec.EphemeralContainers
	takeOld(p, old)
	p.Spec.EphemeralContainers = added
	api.CountGeneration(p, old, &p.Spec, &old.Spec)
}

// takeOld makes p a copy of old that keeps the resourceVersion and managed
// fields of the request.
func takeOld(p, old *corev1.Pod) {
	version, managed := p.ResourceVersion, p.ManagedFields
	old.DeepCopyInto(p)
	p.ResourceVersion, p.ManagedFields = version, managed
}

// preparePodResize takes nothing but resources and resize policies (KEP 1287).
// Containers that are not the pod's are left for validation to refuse. A resize
// to come is not yet noted in the status: that is the kubelet's word.
func preparePodResize(p, old *corev1.Pod) {
	asked := p.Spec.DeepCopy()
	takeOld(p, old)
	take := func(to *[]corev1.Container, from []corev1.Container) {
		if !slices.EqualFunc(*to, from, func(a, b corev1.Container) bool { return a.Name == b.Name }) {
			*to = from
			return
		}
		for i := range *to {
			(*to)[i].Resources, (*to)[i].ResizePolicy = from[i].Resources, from[i].ResizePolicy
		}
	}
	take(&p.Spec.Containers, asked.Containers)
	take(&p.Spec.InitContainers, asked.InitContainers)
	if old.Spec.Resources != nil || asked.Resources != nil {
		p.Spec.Resources = asked.Resources
	}
	api.CountGeneration(p, old, &p.Spec, &old.Spec)
}
