// Package rbac authorizes by Roles and their bindings: watches of the four
// kinds go in, an index by subject answers each question from the rules of
// that subject alone, whatever the size of the cluster.
package rbac

import (
	"fmt"
	"strconv"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/client"
)

// subject is a user or a group; a service account is a user.
type subject struct {
	group bool
	name  string
}

// grant is one subject of one binding. It is read only.
type grant struct {
	binding   string // name
	namespace string // "" for a ClusterRoleBinding
	role      rbacv1.RoleRef
	to        rbacv1.Subject
	reason    string // of what it allows
}

// because is the text of the reason that allows a request.
func because(g *grant) string {
	kind, name := "ClusterRoleBinding", g.binding
	if g.namespace != "" {
		kind, name = "RoleBinding", g.binding+"/"+g.namespace
	}
	to := g.to.Name
	if g.to.Kind == rbacv1.ServiceAccountKind {
		ns := g.to.Namespace
		if ns == "" {
			ns = g.namespace
		}
		to += "/" + ns
	}
	return fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s %q", kind, name, g.role.Kind, g.role.Name, g.to.Kind, to)
}

// scope holds the bindings of the cluster or of one namespace.
type scope struct {
	grants   map[subject][]*grant
	bindings map[string][]*grant // by binding name, to take them out again
	roles    map[string][]rbacv1.PolicyRule
}

func newScope() *scope {
	return &scope{map[subject][]*grant{}, map[string][]*grant{}, map[string][]rbacv1.PolicyRule{}}
}

// index is what the authorizer knows. The cluster's scope lies under "".
type index struct {
	mu     sync.RWMutex
	scopes map[string]*scope
	// seen is the newest revision of each kind; moved is closed and replaced
	// whenever one of them grows.
	seen  [kinds]uint64
	moved chan struct{}
}

type kind int

const (
	clusterRoles kind = iota
	clusterRoleBindings
	namespacedRoles
	roleBindings
	kinds
)

func newIndex() *index {
	return &index{scopes: map[string]*scope{"": newScope()}, moved: make(chan struct{})}
}

func (x *index) scope(ns string) *scope {
	s, ok := x.scopes[ns]
	if !ok {
		s = newScope()
		x.scopes[ns] = s
	}
	return s
}

// tidy drops the scope of a namespace in which nothing is left.
func (x *index) tidy(ns string) {
	if s := x.scopes[ns]; ns != "" && s != nil && len(s.bindings) == 0 && len(s.roles) == 0 {
		delete(x.scopes, ns)
	}
}

func subjectOf(s *rbacv1.Subject, bindingNamespace string) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		ns := s.Namespace
		if ns == "" {
			ns = bindingNamespace
		}
		if ns == "" {
			return subject{}, false
		}
		return subject{name: "system:serviceaccount:" + ns + ":" + s.Name}, true
	}
	return subject{}, false
}

// put files an object, replacing what was filed under its name.
func (x *index) put(obj any) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		x.scope("").roles[o.Name] = o.Rules
	case *rbacv1.Role:
		x.scope(o.Namespace).roles[o.Name] = o.Rules
	case *rbacv1.ClusterRoleBinding:
		x.bind("", o.Name, o.RoleRef, o.Subjects)
	case *rbacv1.RoleBinding:
		x.bind(o.Namespace, o.Name, o.RoleRef, o.Subjects)
	}
}

func (x *index) bind(ns, name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	x.unbind(ns, name)
	s := x.scope(ns)
	grants := make([]*grant, 0, len(subjects))
	for i := range subjects {
		key, ok := subjectOf(&subjects[i], ns)
		if !ok {
			continue
		}
		g := &grant{binding: name, namespace: ns, role: ref, to: subjects[i]}
		g.reason = because(g)
		grants = append(grants, g)
		s.grants[key] = append(s.grants[key], g)
	}
	s.bindings[name] = grants
}

func (x *index) unbind(ns, name string) {
	s, ok := x.scopes[ns]
	if !ok {
		return
	}
	for _, g := range s.bindings[name] {
		key, _ := subjectOf(&g.to, ns)
		list := s.grants[key]
		kept := make([]*grant, 0, len(list))
		for _, other := range list {
			if other != g {
				kept = append(kept, other)
			}
		}
		if len(kept) == 0 {
			delete(s.grants, key)
		} else {
			s.grants[key] = kept
		}
	}
	delete(s.bindings, name)
}

// remove takes an object out.
func (x *index) remove(obj any) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		delete(x.scope("").roles, o.Name)
	case *rbacv1.Role:
		delete(x.scope(o.Namespace).roles, o.Name)
		x.tidy(o.Namespace)
	case *rbacv1.ClusterRoleBinding:
		x.unbind("", o.Name)
	case *rbacv1.RoleBinding:
		x.unbind(o.Namespace, o.Name)
		x.tidy(o.Namespace)
	}
}

// clear takes everything of a kind out.
func (x *index) clear(k kind) {
	for ns, s := range x.scopes {
		if (ns == "") != (k == clusterRoles || k == clusterRoleBindings) {
			continue
		}
		if k == clusterRoles || k == namespacedRoles {
			clear(s.roles)
		} else {
			clear(s.bindings)
			clear(s.grants)
		}
		x.tidy(ns)
	}
}

func (x *index) saw(k kind, rv string) {
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil || n <= x.seen[k] {
		return
	}
	x.seen[k] = n
	close(x.moved)
	x.moved = make(chan struct{})
}

// visit calls f with every rule that the user has: everywhere, and in the
// namespace ("" for none). f returns false to stop. Roles that are bound but
// do not exist are passed with an error instead.
func (x *index) visit(user *client.User, ns string, f func(g *grant, rule *rbacv1.PolicyRule, err error) bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.visitScope(x.scopes[""], user, f) || ns == "" {
		return
	}
	if s, ok := x.scopes[ns]; ok {
		x.visitScope(s, user, f)
	}
}

func (x *index) visitScope(s *scope, user *client.User, f func(*grant, *rbacv1.PolicyRule, error) bool) bool {
	if !x.visitGrants(s.grants[subject{name: user.Name}], f) {
		return false
	}
	for _, group := range user.Groups {
		if !x.visitGrants(s.grants[subject{group: true, name: group}], f) {
			return false
		}
	}
	return true
}

func (x *index) visitGrants(grants []*grant, f func(*grant, *rbacv1.PolicyRule, error) bool) bool {
	for _, g := range grants {
		rules, err := x.rules(g.role, g.namespace)
		if err != nil {
			if !f(g, nil, err) {
				return false
			}
			continue
		}
		for i := range rules {
			if !f(g, &rules[i], nil) {
				return false
			}
		}
	}
	return true
}

// rules returns the rules of a role; the caller holds the lock.
func (x *index) rules(ref rbacv1.RoleRef, ns string) ([]rbacv1.PolicyRule, error) {
	s, kind := x.scopes[""], "clusterrole" // the words of upstream's reasons
	if ref.Kind == "Role" {
		s, kind = x.scopes[ns], "role"
	}
	if s != nil {
		if rules, ok := s.roles[ref.Name]; ok {
			return rules, nil
		}
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource(kind), ref.Name)
}
