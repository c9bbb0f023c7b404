package flowcontrol

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// verbs are what a rule can be about, sorted.
var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

const all = "*" // in any list of a rule, and then alone

func validateRules(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], path.Child("nonResourceRules").Index(i)
		errs = append(errs, validateVerbs(rule.Verbs, at.Child("verbs"))...)
		urls := at.Child("nonResourceURLs")
		switch {
		case len(rule.NonResourceURLs) == 0:
			errs = append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
		case slices.Contains(rule.NonResourceURLs, all):
			errs = append(errs, alone(rule.NonResourceURLs, urls, "non-resource URLs")...)
		default:
			for k, u := range rule.NonResourceURLs {
				errs = append(errs, validatePath(u, urls.Index(k))...)
			}
		}
	}
	return errs
}

// alone refuses a list with more than the star.
func alone(list []string, path *field.Path, what string) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, all) {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateVerbs(list []string, path *field.Path) field.ErrorList {
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(list, all):
		return alone(list, path, "verbs")
	}
	for _, v := range list {
		if !slices.Contains(verbs, v) {
			return field.ErrorList{field.NotSupported(path, list, verbs)}
		}
	}
	return nil
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	errs = append(errs, alone(r.APIGroups, path.Child("apiGroups"), "api groups")...)
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	errs = append(errs, alone(r.Resources, path.Child("resources"), "resources")...)
	namespaces := path.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if slices.Contains(r.Namespaces, all) {
		return append(errs, alone(r.Namespaces, namespaces, "namespaces")...)
	}
	for i, n := range r.Namespaces {
		for _, m := range apivalidation.ValidateNamespaceName(n, false) {
			errs = append(errs, field.Invalid(namespaces.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+m))
		}
	}
	return errs
}

// validatePath checks the path of a request that is for no resource; a star
// may end it.
func validatePath(p string, path *field.Path) field.ErrorList {
	text := ""
	switch stars := strings.Count(p, all); {
	case p == "":
		text = "must not be empty"
	case p == "/":
	case !strings.HasPrefix(p, "/"):
		text = "must start with slash"
	case strings.Contains(p, " "):
		text = "must not contain white-space"
	case strings.Contains(p, "//"):
		text = "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(p, all):
		text = "wildcard can only do suffix matching"
	}
	if text == "" {
		return nil
	}
	return field.ErrorList{field.Invalid(path, p, text)}
}

func validateSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	kinds := []struct {
		kind  flowcontrolv1.SubjectKind
		name  string
		set   bool
		check func(at *field.Path) field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(at *field.Path) field.ErrorList { return validateAccount(s.ServiceAccount, at) }},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(at *field.Path) field.ErrorList { return named(s.User.Name, at) }},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(at *field.Path) field.ErrorList { return named(s.Group.Name, at) }},
	}
	var errs field.ErrorList
	known := false
	for _, k := range kinds {
		at := path.Child(k.name)
		switch {
		case k.kind == s.Kind && !k.set:
			errs = append(errs, field.Required(at, k.name+" is required when subject kind is '"+string(k.kind)+"'"))
		case k.kind == s.Kind:
			errs = append(errs, k.check(at)...)
		}
		known = known || k.kind == s.Kind
	}
	if !known {
		return field.ErrorList{field.NotSupported(path.Child("kind"), s.Kind, []flowcontrolv1.SubjectKind{
			flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser,
		})}
	}
	for _, k := range kinds {
		if k.set && k.kind != s.Kind {
			errs = append(errs, field.Forbidden(path.Child(k.name), k.name+" is forbidden when subject kind is not '"+string(k.kind)+"'"))
		}
	}
	return errs
}

func named(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return nil
}

func validateAccount(a *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch a.Name {
	case "":
		errs = append(errs, field.Required(path.Child("name"), ""))
	case all:
	default:
		errs = append(errs, check.Each(path.Child("name"), a.Name, apivalidation.ValidateServiceAccountName(a.Name, false))...)
	}
	if a.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, check.Each(path.Child("namespace"), a.Namespace, validation.IsDNS1123Label(a.Namespace))...)
}

// validateCondition checks the type of one condition of a status; seen holds
// those before it.
func validateCondition[T ~string](i int, of T, seen map[T]bool) field.ErrorList {
	at := field.NewPath("status", "conditions").Index(i).Child("type")
	var errs field.ErrorList
	if of == "" {
		errs = append(errs, field.Required(at, ""))
	}
	if seen[of] {
		errs = append(errs, field.Duplicate(at, of))
	}
	seen[of] = true
	return errs
}
