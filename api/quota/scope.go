package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/coxswain/cox/api/podspec"
)

// Matches says that a quota's scopes take in an object. Scopes choose among
// pods (and by attributes class among claims); other objects have none.
func Matches(q *corev1.ResourceQuota, obj any) bool {
	for _, s := range q.Spec.Scopes {
		if !inScope(corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists}, obj) {
			return false
		}
	}
	if q.Spec.ScopeSelector != nil {
		for _, r := range q.Spec.ScopeSelector.MatchExpressions {
			if !inScope(r, obj) {
				return false
			}
		}
	}
	return true
}

func inScope(r corev1.ScopedResourceSelectorRequirement, obj any) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		return podInScope(r, o)
	case *corev1.PersistentVolumeClaim:
		if r.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
			return false
		}
		classes := AttributesClasses(o)
		if len(classes) == 0 {
			return selects(r, "")
		}
		return slices.ContainsFunc(classes, func(class string) bool { return selects(r, class) })
	}
	return false
}

// AttributesClasses returns the attributes classes that a claim refers to: the
// one that it wants, the one that its volume has, and the one that it is being
// changed to. While they differ it counts in the scopes of each (KEP-3751).
func AttributesClasses(claim *corev1.PersistentVolumeClaim) []string {
	var out []string
	add := func(name *string) {
		if name != nil && *name != "" && !slices.Contains(out, *name) {
			out = append(out, *name)
		}
	}
	add(claim.Spec.VolumeAttributesClassName)
	add(claim.Status.CurrentVolumeAttributesClassName)
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	return out
}

func podInScope(r corev1.ScopedResourceSelectorRequirement, p *corev1.Pod) bool {
	terminating := p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	bestEffort := func() bool { return podspec.QOSClass(&p.Spec) == corev1.PodQOSBestEffort }
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort()
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort()
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(r, p.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(p)
	}
	return false
}

func selects(r corev1.ScopedResourceSelectorRequirement, value string) bool {
	switch r.Operator {
	case corev1.ScopeSelectorOpExists:
		return value != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return value == ""
	case corev1.ScopeSelectorOpIn:
		return slices.Contains(r.Values, value)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(r.Values, value)
	}
	return false
}

// crossesNamespaces says that an affinity term of the pod looks into other
// namespaces.
func crossesNamespaces(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for i := range preferred {
			terms = append(terms, preferred[i].PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// computeNames are those that every container of a limited pod must state.
var computeNames = sets.New[corev1.ResourceName](
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
)

// Unstated names what a pod's containers must state because the quota limits
// it, "limits.cpu for: a,b; ..." sorted; "" when all is stated.
func Unstated(q *corev1.ResourceQuota, p *corev1.Pod) string {
	var parts []string
	for _, name := range sets.List(computeNames.Intersection(sets.KeySet(q.Spec.Hard))) {
		short, limits := strings.CutPrefix(string(name), "limits.")
		short = strings.TrimPrefix(short, "requests.")
		states := func(r *corev1.ResourceRequirements) bool {
			list := r.Requests
			if limits {
				list = r.Limits
			}
			_, ok := list[corev1.ResourceName(short)]
			return ok
		}
		if p.Spec.Resources != nil && states(p.Spec.Resources) {
			continue
		}
		var missing []string
		for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
			for i := range list {
				if !states(&list[i].Resources) {
					missing = append(missing, list[i].Name)
				}
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(missing, ",")))
		}
	}
	return strings.Join(parts, "; ")
}

// Text shows a list as messages do: "cpu=1,pods=2", sorted.
func Text(list corev1.ResourceList) string {
	parts := make([]string, 0, len(list))
	for _, name := range sets.List(sets.KeySet(list)) {
		q := list[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}

// Charge is what a quota's usage becomes when delta is added, or why it may
// not be. Only what grows is checked; a nil list is no change. What the quota's
// controller has not taken into the status yet does not count.
func Charge(q *corev1.ResourceQuota, delta corev1.ResourceList) (corev1.ResourceList, error) {
	delta = Mask(delta, q.Status.Hard)
	grows := corev1.ResourceList{}
	for name, d := range delta {
		if d.Sign() > 0 {
			grows[name] = d
		}
	}
	if len(grows) == 0 {
		return nil, nil
	}
	var unknown []string
	for _, name := range sets.List(sets.KeySet(grows)) {
		if _, ok := q.Status.Used[name]; !ok {
			unknown = append(unknown, string(name))
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, strings.Join(unknown, ","))
	}
	used := Add(q.Status.Used.DeepCopy(), nil)
	if used == nil {
		used = corev1.ResourceList{}
	}
	used = Add(used, delta)
	over := corev1.ResourceList{}
	for name := range grows {
		if have := used[name]; have.Cmp(q.Status.Hard[name]) > 0 {
			over[name] = grows[name]
		}
	}
	if len(over) > 0 {
		was := corev1.ResourceList{}
		for name := range over {
			was[name] = q.Status.Used[name]
		}
		return nil, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
			q.Name, Text(over), Text(was), Text(Mask(q.Status.Hard, over)))
	}
	return used, nil
}
