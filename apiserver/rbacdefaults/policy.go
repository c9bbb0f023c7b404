// Package rbacdefaults brings the default roles and bindings of a cluster
// into being: a policy in text goes in, the objects that are missing or fall
// short of it are written.
package rbacdefaults

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed policy.txt
var policyText string

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

const (
	autoUpdate  = rbacv1.AutoUpdateAnnotationKey
	aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"
)

// Default returns the default policy, made anew: the caller may change it.
// gates are the feature gates that are on although they are off by default.
// The aggregated roles are still empty (see Aggregate).
func Default(gates ...string) (*Policy, error) { return parse(policyText, gates...) }

// Aggregate fills the roles that gather others, in the order in which the
// aggregation controller does it: by the name of the role joined, every rule
// once.
func (p *Policy) Aggregate() {
	byName := slices.SortedFunc(slices.Values(p.ClusterRoles), func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for range p.ClusterRoles { // as deep as roles could be nested
		changed := false
		for _, r := range byName {
			if r.AggregationRule == nil {
				continue
			}
			var rules []rbacv1.PolicyRule
			for _, other := range byName {
				if other != r && selected(r.AggregationRule, other) {
					rules = appendNew(rules, other.Rules)
				}
			}
			changed = changed || len(rules) != len(r.Rules)
			r.Rules = rules
		}
		if !changed {
			return
		}
	}
}

func selected(a *rbacv1.AggregationRule, r *rbacv1.ClusterRole) bool {
	return slices.ContainsFunc(a.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
		for k, v := range s.MatchLabels {
			if r.Labels[k] != v {
				return false
			}
		}
		return true
	})
}

func appendNew(to, from []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	for _, f := range from {
		if !slices.ContainsFunc(to, func(t rbacv1.PolicyRule) bool { return sameRule(&t, &f) }) {
			to = append(to, f)
		}
	}
	return to
}

func sameRule(a, b *rbacv1.PolicyRule) bool {
	return slices.Equal(a.Verbs, b.Verbs) && slices.Equal(a.APIGroups, b.APIGroups) && slices.Equal(a.Resources, b.Resources) &&
		slices.Equal(a.ResourceNames, b.ResourceNames) && slices.Equal(a.NonResourceURLs, b.NonResourceURLs)
}

// parse reads the form that the head of policy.txt describes.
func parse(text string, gates ...string) (*Policy, error) {
	p := &Policy{}
	var rules *[]rbacv1.PolicyRule
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		on := true
		if gate, ok := strings.CutPrefix(words[len(words)-1], "gate:"); ok {
			on, words = slices.Contains(gates, gate), words[:len(words)-1]
		}
		var err error
		switch {
		case len(words) == 0:
			err = errors.New("a gate of nothing")
		case line[0] != ' ' && on:
			rules, err = p.addObject(words[0], words[1:])
		case line[0] != ' ': // read, and forgotten
			rules, err = (&Policy{}).addObject(words[0], words[1:])
		case on:
			err = addRule(rules, words)
		default:
			err = addRule(&[]rbacv1.PolicyRule{}, words)
		}
		if err != nil {
			return nil, fmt.Errorf("policy line %d: %w", n, err)
		}
	}
	return p, nil
}

func addRule(rules *[]rbacv1.PolicyRule, words []string) error {
	if rules == nil || len(words) < 3 || len(words) > 4 {
		return fmt.Errorf("not a rule: %v", words)
	}
	r := rbacv1.PolicyRule{Verbs: strings.Split(words[0], ",")}
	if words[1] == "path" {
		r.NonResourceURLs = strings.Split(words[2], ",")
	} else {
		for g := range strings.SplitSeq(words[1], ",") {
			if g == "core" {
				g = ""
			}
			r.APIGroups = append(r.APIGroups, g)
		}
		r.Resources = strings.Split(words[2], ",")
		if len(words) == 4 {
			r.ResourceNames = strings.Split(words[3], ",")
		}
	}
	*rules = append(*rules, r)
	return nil
}

func (p *Policy) addObject(form string, args []string) (*[]rbacv1.PolicyRule, error) {
	switch {
	case form == "cluster-role" && len(args) >= 1:
		r := &rbacv1.ClusterRole{ObjectMeta: objectMeta("", args[0])}
		p.ClusterRoles = append(p.ClusterRoles, r)
		for _, opt := range args[1:] {
			what, role, _ := strings.Cut(opt, ":")
			switch what {
			case "joins":
				r.Labels[aggregateTo+role] = "true"
			case "gathers":
				r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
					{MatchLabels: map[string]string{aggregateTo + role: "true"}}}}
			default:
				return nil, fmt.Errorf("unknown option %q", opt)
			}
		}
		return &r.Rules, nil
	case form == "controller" && len(args) == 1:
		name := "system:controller:" + args[0]
		r := &rbacv1.ClusterRole{ObjectMeta: objectMeta("", name)}
		p.ClusterRoles = append(p.ClusterRoles, r)
		_, err := p.addObject("cluster-binding", []string{name, name, "account:kube-system/" + args[0]})
		return &r.Rules, err
	case form == "role" && len(args) == 2:
		r := &rbacv1.Role{ObjectMeta: objectMeta(args[0], args[1])}
		p.Roles = append(p.Roles, r)
		return &r.Rules, nil
	case form == "cluster-binding" && len(args) >= 2:
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: objectMeta("", args[0]), RoleRef: roleRef("ClusterRole", args[1])}
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, b)
		var err error
		b.Subjects, err = subjects(args[2:])
		return nil, err
	case form == "binding" && len(args) >= 3:
		b := &rbacv1.RoleBinding{ObjectMeta: objectMeta(args[0], args[1]), RoleRef: roleRef("Role", args[2])}
		p.RoleBindings = append(p.RoleBindings, b)
		var err error
		b.Subjects, err = subjects(args[3:])
		return nil, err
	}
	return nil, fmt.Errorf("not an object: %s %v", form, args)
}

func objectMeta(ns, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: ns, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{autoUpdate: "true"},
	}
}

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func subjects(words []string) ([]rbacv1.Subject, error) {
	var out []rbacv1.Subject
	for _, w := range words {
		kind, name, _ := strings.Cut(w, ":")
		switch kind {
		case "user":
			out = append(out, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name})
		case "group":
			out = append(out, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name})
		case "account":
			ns, account, _ := strings.Cut(name, "/")
			out = append(out, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: account})
		default:
			return nil, fmt.Errorf("unknown subject %q", w)
		}
	}
	return out, nil
}
