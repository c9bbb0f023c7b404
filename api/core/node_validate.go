package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"k8s.io/apimachinery/pkg/util/diff"

	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
)

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs)...)
	return append(errs, validateNodeResources(n)...)
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		effect corev1.TaintEffect
		key    string
	}
	seen := sets.New[key]()
	for i, t := range taints {
		p := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, strings.Join(msgs, ";")))
		}
		if t.Effect == "" {
			errs = append(errs, field.Required(p.Child("effect"), ""))
		} else {
			errs = append(errs, podspec.ValidateTaintEffect(t.Effect, p.Child("effect"))...)
		}
		k := key{t.Effect, t.Key}
		if seen.Has(k) {
			e := field.Duplicate(p, check.Shown(t))
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
		seen.Insert(k)
	}
	return errs
}

func validatePodCIDRs(cidrs []string) field.ErrorList {
	var errs field.ErrorList
	path := specPath.Child("podCIDRs")
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), c, true, nil)...)
	}
	if len(cidrs) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
	}
	if !dual || len(cidrs) > 2 {
		errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range sets.List(sets.KeySet(l.list)) {
			errs = append(errs, podspec.ValidateQuantity(name, l.list[name], statusPath.Child(l.name, string(name)))...)
		}
	}
	return errs
}

// validateNodeUpdate lets taints, cordoning and the status change; addresses
// and identity are given once.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	errs = append(errs, validateNodeResources(n)...)
	errs = append(errs, validateDeclaredFeatures(n.Status.DeclaredFeatures, statusPath.Child("declaredFeatures"))...)
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(statusPath.Child("addresses").Index(i), check.Shown(a)))
		}
		seen.Insert(a)
	}
	if len(old.Spec.PodCIDRs) > 0 && !equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	} else if !equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
		errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs)...)
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(specPath.Child("externalID"), "may not be updated"))
	}
	rest := n.Spec
	rest.DoNotUseExternalID = old.Spec.DoNotUseExternalID
	rest.Taints, rest.Unschedulable, rest.ConfigSource = old.Spec.Taints, old.Spec.Unschedulable, old.Spec.ConfigSource
	rest.PodCIDR, rest.PodCIDRs, rest.ProviderID = old.Spec.PodCIDR, old.Spec.PodCIDRs, old.Spec.ProviderID
	if !equal(rest, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)\n"+diff.Diff(check.Shown(old.Spec), check.Shown(rest))))
	}
	return errs
}

// featureName is a path of names such as Feature/part.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z0-9]+)*$`)

// validateDeclaredFeatures wants the features that a kubelet declares sorted
// and each once.
func validateDeclaredFeatures(names []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		at := path.Index(i)
		if i > 0 && name == names[i-1] {
			errs = append(errs, field.Duplicate(at, name))
		} else if i > 0 && name < names[i-1] {
			errs = append(errs, field.Invalid(at, name, "list must be sorted alphabetically"))
		}
		if !featureName.MatchString(name) {
			errs = append(errs, field.Invalid(at, name, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", name)))
		}
	}
	return errs
}

func nodeWarnings(n, _ *corev1.Node) []string {
	var out []string
	if n.Spec.ConfigSource != nil {
		out = append(out, specPath.Child("configSource").String()+": the feature is no longer supported")
	}
	if n.Spec.DoNotUseExternalID != "" {
		out = append(out, specPath.Child("externalID").String()+": this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(specPath.Child("podCIDRs").Index(i), c)...)
	}
	return out
}
