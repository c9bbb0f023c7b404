package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/podspec"
)

func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuotaList(q.Spec.Hard, specPath.Child("hard"))
	errs = append(errs, validateScopes(q.Spec.Scopes, q.Spec.Hard)...)
	return append(errs, validateScopeSelector(&q.Spec)...)
}

func validateQuotaList(l corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sets.List(sets.KeySet(l)) {
		p := path.Key(string(name))
		errs = append(errs, validateQuotaName(name, p)...)
		errs = append(errs, validateQuotaValue(name, l[name], p)...)
	}
	return errs
}

// validateQuotaName accepts what quotas count: compute resources and requests
// and limits of them, kinds of objects (count/... for any), storage by class,
// and extended resources.
func validateQuotaName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := invalid(path, name, validation.IsQualifiedName(string(name)))
	if strings.Contains(string(name), "/") || slices.Contains(quotaNames(), name) ||
		podspec.IsHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) {
		return errs
	}
	for _, suffix := range []string{corev1.ResourceClaimsPerClass, ".storageclass.storage.k8s.io/requests.storage"} {
		if strings.HasSuffix(string(name), suffix) {
			return errs
		}
	}
	if name != corev1.ResourceStorage {
		errs = append(errs, field.Invalid(path, name, "must be a standard resource type or fully qualified"))
	}
	return append(errs, field.Invalid(path, name, "must be a standard resource for quota"))
}

func quotaNames() []corev1.ResourceName {
	return append(quotaCounts(), []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceLimitsEphemeralStorage,
	}...)
}

// quotaCounts are those that count whole objects.
func quotaCounts() []corev1.ResourceName {
	return []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
}

func validateQuotaValue(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	errs := podspec.ValidateQuantity(name, q, path)
	if len(errs) == 0 && slices.Contains(quotaCounts(), name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q, "must be an integer"))
	}
	return errs
}

func knownScopes() []corev1.ResourceQuotaScope {
	return []corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass,
		corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass,
	}
}

func conflictingScopes(scopes []corev1.ResourceQuotaScope) bool {
	has := func(s corev1.ResourceQuotaScope) bool { return slices.Contains(scopes, s) }
	return has(corev1.ResourceQuotaScopeBestEffort) && has(corev1.ResourceQuotaScopeNotBestEffort) ||
		has(corev1.ResourceQuotaScopeTerminating) && has(corev1.ResourceQuotaScopeNotTerminating)
}

func validateScopes(scopes []corev1.ResourceQuotaScope, hard corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	path := specPath.Child("scopes")
	for _, s := range scopes {
		if !slices.Contains(knownScopes(), s) {
			errs = append(errs, field.Invalid(path, scopes, "unsupported scope"))
		}
		errs = append(errs, validateScoped(s, hard, path, scopes)...)
	}
	if conflictingScopes(scopes) {
		errs = append(errs, field.Invalid(path, scopes, "conflicting scopes"))
	}
	return errs
}

// validateScoped refuses to count within a scope what is never in it. Names
// that are not Kubernetes' own may be anything. value is what the errors show.
func validateScoped(scope corev1.ResourceQuotaScope, hard corev1.ResourceList, path *field.Path, value any) field.ErrorList {
	var counted []corev1.ResourceName
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		counted = []corev1.ResourceName{corev1.ResourcePods}
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		counted = []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		counted = []corev1.ResourceName{
			corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU,
			corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		}
	default:
		return nil
	}
	var errs field.ErrorList
	for name := range hard {
		own := slices.Contains(quotaNames(), name) || podspec.IsHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
		if own && !slices.Contains(counted, name) {
			errs = append(errs, field.Invalid(path, value, "unsupported scope applied to resource"))
		}
	}
	return errs
}

// shownSelector is a scope selector as errors show it, without the names that
// its fields have in JSON.
type shownSelector struct{ MatchExpressions []shownRequirement }

type shownRequirement struct {
	ScopeName corev1.ResourceQuotaScope
	Operator  corev1.ScopeSelectorOperator
	Values    []string
}

func validateScopeSelector(spec *corev1.ResourceQuotaSpec) field.ErrorList {
	s := spec.ScopeSelector
	if s == nil {
		return nil
	}
	var shown shownSelector
	for _, r := range s.MatchExpressions {
		shown.MatchExpressions = append(shown.MatchExpressions, shownRequirement(r))
	}
	var errs field.ErrorList
	path := specPath.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if !slices.Contains(knownScopes(), r.ScopeName) {
			errs = append(errs, field.Invalid(path.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		errs = append(errs, validateScoped(r.ScopeName, spec.Hard, path, shown)...)
		valued := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
		if !valued && slices.Contains(knownScopes(), r.ScopeName) && r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(path.Child("operator"), r.Operator,
				"must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(path.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) != 0 {
				errs = append(errs, field.Invalid(path.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	if conflictingScopes(scopes) {
		errs = append(errs, field.Invalid(path, spec.Scopes, "conflicting scopes"))
	}
	return errs
}

func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuota(q)
	now, before := sets.New(q.Spec.Scopes...), sets.New(old.Spec.Scopes...)
	if !now.Equal(before) {
		errs = append(errs, field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, "field is immutable"))
	}
	return errs
}

func validateQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuotaList(q.Status.Hard, statusPath.Child("hard"))
	return append(errs, validateQuotaList(q.Status.Used, statusPath.Child("used"))...)
}
