package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateTolerations checks a list of tolerations.
func ValidateTolerations(list []corev1.Toleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range list {
		p := path.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(p.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(p.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
				errs = append(errs, field.Invalid(p.Child("operator"), t.Value, strings.Join(msgs, ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(p.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(p.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, ValidateTaintEffect(t.Effect, p.Child("effect"))...)
		}
	}
	return errs
}

// ValidateTaintEffect checks a taint's effect.
func ValidateTaintEffect(e corev1.TaintEffect, path *field.Path) field.ErrorList {
	switch e {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		return nil
	}
	return field.ErrorList{field.NotSupported(path, e, []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute})}
}

// ValidateNodeSelector checks a node selector with its terms.
func ValidateNodeSelector(s *corev1.NodeSelector, path *field.Path) field.ErrorList {
	return validateNodeSelector(s, false, path)
}

func validateNodeSelector(s *corev1.NodeSelector, anyValue bool, path *field.Path) field.ErrorList {
	p := path.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(p, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i := range s.NodeSelectorTerms {
		errs = append(errs, validateNodeTerm(&s.NodeSelectorTerms[i], anyValue, p.Index(i))...)
	}
	return errs
}

const badOperator = "not a valid selector operator"

func validateNodeTerm(t *corev1.NodeSelectorTerm, anyValue bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range t.MatchExpressions {
		p := path.Child("matchExpressions").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(p.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Forbidden(p.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				errs = append(errs, field.Required(p.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
			}
		default:
			errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, badOperator))
		}
		errs = append(errs, metavalidation.ValidateLabelName(r.Key, p.Child("key"))...)
		if !anyValue {
			for j, v := range r.Values {
				errs = append(errs, invalid(p.Child("values").Index(j), v, validation.IsValidLabelValue(v))...)
			}
		}
	}
	for i, r := range t.MatchFields {
		p := path.Child("matchFields").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) != 1 {
				errs = append(errs, field.Required(p.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
			}
		default:
			errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, badOperator))
		}
		if r.Key != metav1.ObjectNameField {
			errs = append(errs, field.Invalid(p.Child("key"), r.Key, "not a valid field selector key"))
			continue
		}
		for j, v := range r.Values {
			errs = append(errs, invalid(p.Child("values").Index(j), v, apivalidation.NameIsDNSSubdomain(v, false))...)
		}
	}
	return errs
}

// ValidateTopologySelectorTerms checks the allowedTopologies of a storage
// class.
func ValidateTopologySelectorTerms(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range terms {
		p := path.Index(i).Child("matchLabelExpressions")
		keys := sets.New[string]()
		for j, r := range t.MatchLabelExpressions {
			rp := p.Index(j)
			errs = append(errs, metavalidation.ValidateLabelName(r.Key, rp.Child("key"))...)
			if keys.Has(r.Key) {
				errs = append(errs, field.Duplicate(rp.Child("key"), r.Key))
			}
			keys.Insert(r.Key)
			values := sets.New[string]()
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(rp.Child("values"), ""))
			}
			for n, v := range r.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(rp.Child("values").Index(n), v))
				}
				values.Insert(v)
			}
		}
		// A term that says nothing counts as said before.
		if len(t.MatchLabelExpressions) == 0 || slices.ContainsFunc(terms[:i], func(o corev1.TopologySelectorTerm) bool { return sameTopology(o, t) }) {
			errs = append(errs, field.Duplicate(p, ""))
		}
	}
	return errs
}

// sameTopology says that two terms select the same, whatever their order.
func sameTopology(a, b corev1.TopologySelectorTerm) bool {
	of := func(t corev1.TopologySelectorTerm) map[string]sets.Set[string] {
		out := map[string]sets.Set[string]{}
		for _, r := range t.MatchLabelExpressions {
			out[r.Key] = sets.New(r.Values...)
		}
		return out
	}
	return maps.EqualFunc(of(a), of(b), func(x, y sets.Set[string]) bool { return x.Equal(y) })
}

func (c *checker) affinity(path *field.Path) field.ErrorList {
	a := c.spec.Affinity
	if a == nil {
		return nil
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	var errs field.ErrorList
	if n := a.NodeAffinity; n != nil {
		p := path.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			errs = append(errs, validateNodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, c.opts.Old != nil, p.Child(required))...)
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			tp := p.Child(preferred).Index(i)
			errs = append(errs, validateWeight(t.Weight, tp)...)
			errs = append(errs, validateNodeTerm(&t.Preference, true, tp.Child("preference"))...)
		}
	}
	pods := func(req []corev1.PodAffinityTerm, pref []corev1.WeightedPodAffinityTerm, p *field.Path) {
		for i := range req {
			errs = append(errs, c.podAffinityTerm(&req[i], p.Child(required).Index(i))...)
		}
		for i := range pref {
			tp := p.Child(preferred).Index(i)
			errs = append(errs, validateWeight(pref[i].Weight, tp)...)
			errs = append(errs, c.podAffinityTerm(&pref[i].PodAffinityTerm, tp.Child("podAffinityTerm"))...)
		}
	}
	if p := a.PodAffinity; p != nil {
		pods(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		pods(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity"))
	}
	return errs
}

func validateWeight(w int32, path *field.Path) field.ErrorList {
	if w <= 0 || w > 100 {
		return field.ErrorList{field.Invalid(path.Child("weight"), w, "must be in the range 1-100")}
	}
	return nil
}

func (c *checker) podAffinityTerm(t *corev1.PodAffinityTerm, path *field.Path) field.ErrorList {
	errs := ValidateLabelSelector(t.LabelSelector, c.opts.InvalidSelectorValues, path.Child("labelSelector"))
	errs = append(errs, ValidateLabelSelector(t.NamespaceSelector, c.opts.InvalidSelectorValues, path.Child("namespaceSelector"))...)
	for _, ns := range t.Namespaces {
		errs = append(errs, invalid(path.Child("namespace"), ns, apivalidation.ValidateNamespaceName(ns, false))...)
	}
	errs = append(errs, c.matchLabelKeys(t.MatchLabelKeys, t.LabelSelector, path, "matchLabelKeys")...)
	errs = append(errs, c.matchLabelKeys(t.MismatchLabelKeys, t.LabelSelector, path, "mismatchLabelKeys")...)
	both := sets.New(t.MatchLabelKeys...)
	for i, k := range t.MismatchLabelKeys {
		if both.Has(k) {
			errs = append(errs, field.Invalid(path.Child("mismatchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(t.TopologyKey, path.Child("topologyKey"))...)
}

// matchLabelKeys checks keys whose values are taken from the pod's own labels
// (KEPs 3633 and 3243). Once the API server has merged them into the
// selector they stand in both.
func (c *checker) matchLabelKeys(keys []string, s *metav1.LabelSelector, path *field.Path, name string) field.ErrorList {
	if len(keys) == 0 {
		return nil
	}
	p := path.Child(name)
	var errs field.ErrorList
	used := sets.New[string]()
	if s == nil {
		return field.ErrorList{field.Forbidden(p, "must not be specified when labelSelector is not set")}
	}
	used.Insert(sets.List(sets.KeySet(s.MatchLabels))...)
	for _, r := range s.MatchExpressions {
		if !c.mergedKey(r) {
			used.Insert(r.Key)
		}
	}
	for i, k := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(k, p.Index(i))...)
		if used.Has(k) {
			errs = append(errs, field.Invalid(p.Index(i), k, fmt.Sprintf("exists in both %s and labelSelector", name)))
		}
	}
	return errs
}

// mergedKey recognizes a requirement that the API server derives itself from
// the pod's labels.
func (c *checker) mergedKey(r metav1.LabelSelectorRequirement) bool {
	v, ok := c.meta.Labels[r.Key]
	return !c.opts.Template && ok && len(r.Values) == 1 && r.Values[0] == v || c.opts.StoredSelectors
}

func (c *checker) spread(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	pairs := sets.New[string]()
	for i := range c.spec.TopologySpreadConstraints {
		t, p := &c.spec.TopologySpreadConstraints[i], path.Index(i)
		const positive = "must be greater than zero"
		if t.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(p.Child("maxSkew"), t.MaxSkew, positive))
		}
		if t.TopologyKey == "" {
			errs = append(errs, field.Required(p.Child("topologyKey"), "can not be empty"))
		}
		if w := t.WhenUnsatisfiable; w != corev1.DoNotSchedule && w != corev1.ScheduleAnyway {
			errs = append(errs, field.NotSupported(p.Child("whenUnsatisfiable"), w, []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		pair := fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)
		if pairs.Has(pair) {
			errs = append(errs, field.Duplicate(p.Child("{topologyKey, whenUnsatisfiable}"), pair))
		}
		pairs.Insert(pair)
		if m := t.MinDomains; m != nil {
			if *m <= 0 {
				errs = append(errs, field.Invalid(p.Child("minDomains"), *m, positive))
			}
			if t.WhenUnsatisfiable != corev1.DoNotSchedule {
				errs = append(errs, field.Invalid(p.Child("minDomains"), *m,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
			}
		}
		for _, f := range []struct {
			policy *corev1.NodeInclusionPolicy
			name   string
		}{{t.NodeAffinityPolicy, "nodeAffinityPolicy"}, {t.NodeTaintsPolicy, "nodeTaintsPolicy"}} {
			if q := f.policy; q != nil && *q != corev1.NodeInclusionPolicyHonor && *q != corev1.NodeInclusionPolicyIgnore {
				errs = append(errs, field.NotSupported(p.Child(f.name), *q, []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}))
			}
		}
		errs = append(errs, c.matchLabelKeys(t.MatchLabelKeys, t.LabelSelector, p, "matchLabelKeys")...)
		errs = append(errs, ValidateLabelSelector(t.LabelSelector, c.opts.InvalidSelectorValues, p.Child("labelSelector"))...)
	}
	return errs
}

// hasInvalidSelectorValue says that a selector of the spec holds values that
// no label can have, so that an update may keep them.
func hasInvalidSelectorValue(spec *corev1.PodSpec) bool {
	bad := false
	VisitPodAffinityTerms(spec, func(t *corev1.PodAffinityTerm) {
		bad = bad || metavalidation.LabelSelectorHasInvalidLabelValue(t.LabelSelector) || metavalidation.LabelSelectorHasInvalidLabelValue(t.NamespaceSelector)
	})
	for i := range spec.TopologySpreadConstraints {
		bad = bad || metavalidation.LabelSelectorHasInvalidLabelValue(spec.TopologySpreadConstraints[i].LabelSelector)
	}
	return bad
}
