// Package rules compares sets of RBAC rules: what one user may do and what
// another is to be allowed go in, what is missing comes out.
package rules

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Uncovered returns the parts of want that have does not allow, each a rule
// of one verb on one thing.
func Uncovered(have, want []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for i := range want {
		for _, part := range split(&want[i]) {
			if !slices.ContainsFunc(have, func(h rbacv1.PolicyRule) bool { return covers(&h, &part) }) {
				out = append(out, part)
			}
		}
	}
	return out
}

// split takes a rule apart into rules of one verb on one resource (and one
// name) or path.
func split(r *rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, verb := range r.Verbs {
		v := []string{verb}
		for _, group := range r.APIGroups {
			for _, res := range r.Resources {
				part := rbacv1.PolicyRule{Verbs: v, APIGroups: []string{group}, Resources: []string{res}}
				if len(r.ResourceNames) == 0 {
					out = append(out, part)
				}
				for _, name := range r.ResourceNames {
					part.ResourceNames = []string{name}
					out = append(out, part)
				}
			}
		}
		for _, p := range r.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: v, NonResourceURLs: []string{p}})
		}
	}
	return out
}

// covers says that have allows all of part, which split made. Wildcards in
// part are covered only by wildcards.
func covers(have, part *rbacv1.PolicyRule) bool {
	if !Matches(have.Verbs, part.Verbs[0]) {
		return false
	}
	if len(part.NonResourceURLs) > 0 {
		want := part.NonResourceURLs[0]
		return slices.ContainsFunc(have.NonResourceURLs, func(p string) bool { return PathMatches(p, want) })
	}
	if !Matches(have.APIGroups, part.APIGroups[0]) {
		return false
	}
	res, sub, hasSub := strings.Cut(part.Resources[0], "/")
	if !slices.Contains(have.Resources, part.Resources[0]) && !slices.Contains(have.Resources, "*") &&
		!(hasSub && res != "*" && slices.Contains(have.Resources, "*/"+sub)) {
		return false
	}
	if len(have.ResourceNames) == 0 {
		return true
	}
	return len(part.ResourceNames) > 0 && slices.Contains(have.ResourceNames, part.ResourceNames[0])
}

// Compact joins rules on the same resource that differ only in the verb.
func Compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	at := map[string]int{}
	for _, r := range rules {
		if len(r.APIGroups) != 1 || len(r.Resources) != 1 || len(r.NonResourceURLs) > 0 {
			out = append(out, r)
			continue
		}
		key := r.APIGroups[0] + "\x00" + r.Resources[0] + "\x00" + strings.Join(r.ResourceNames, "\x00")
		if i, ok := at[key]; ok {
			if !slices.Contains(out[i].Verbs, r.Verbs[0]) {
				out[i].Verbs = append(slices.Clip(out[i].Verbs), r.Verbs...)
			}
			continue
		}
		at[key] = len(out)
		out = append(out, r)
	}
	return out
}

// Describe writes a rule for people.
func Describe(r *rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, list []string) {
		if len(list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, list))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("NonResourceURLs", r.NonResourceURLs)
	add("ResourceNames", r.ResourceNames)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}

// Matches says that a list of verbs or groups holds want or a "*".
func Matches(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}

// PathMatches says that a path pattern ("/a", "/a*", "*") matches.
func PathMatches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
