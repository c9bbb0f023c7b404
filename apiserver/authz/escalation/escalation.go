// Package escalation keeps users from giving away rights which they do not
// have: a write of a role or binding goes in, a refusal that names the
// missing rights comes out ("Privilege escalation prevention and
// bootstrapping" in the RBAC documentation).
package escalation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/rules"
	"github.com/coxswain/cox/client"
)

// Resolver knows the rules that users have; rbac.Authorizer is one.
type Resolver interface {
	// Rules returns what the user may do everywhere and in the namespace,
	// and an error for roles that are bound but not found.
	Rules(ctx context.Context, user client.User, namespace string) ([]rbacv1.PolicyRule, error)
	// RoleRules returns the rules of the role that a binding in the
	// namespace names.
	RoleRules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error)
}

// Hooks returns the hooks by the kind that each belongs to. auth is the whole
// authorizer, asked for the verbs escalate and bind.
func Hooks(resolver Resolver, auth authz.Authorizer) map[schema.GroupResource]apiserver.Hook {
	c := &checker{resolver, auth}
	return map[schema.GroupResource]apiserver.Hook{
		client.ClusterRoles.GroupResource():        {Begin: c.role},
		client.Roles.GroupResource():               {Begin: c.role},
		client.ClusterRoleBindings.GroupResource(): {Begin: c.binding},
		client.RoleBindings.GroupResource():        {Begin: c.binding},
	}
}

type checker struct {
	resolver Resolver
	auth     authz.Authorizer
}

func (c *checker) role(ctx context.Context, req *client.Request, obj, old runtime.Object) (func(bool), error) {
	if obj == nil || slices.Contains(req.User.Groups, authz.GroupMasters) || onlyGarbageCollection(obj, old) {
		return nil, nil
	}
	var want []rbacv1.PolicyRule
	aggregates := false
	switch r := obj.(type) {
	case *rbacv1.Role:
		want = r.Rules
	case *rbacv1.ClusterRole:
		want = r.Rules
		if before, _ := old.(*rbacv1.ClusterRole); r.AggregationRule != nil && (before == nil || before.AggregationRule == nil) {
			aggregates = true
		}
	default:
		return nil, fmt.Errorf("role hook got %T", obj)
	}
	name := nameOf(req, obj)
	gr := req.Resource.GroupResource()
	if ok, err := c.may(ctx, req, "escalate", gr, name); err != nil {
		return nil, err
	} else if ok {
		return nil, nil
	}
	// What it aggregates can change without this check, so only who has every
	// right may make one.
	if aggregates && c.confirm(ctx, req, everything()) != nil {
		return nil, apierrors.NewForbidden(gr, name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	if err := c.confirm(ctx, req, want); err != nil {
		return nil, apierrors.NewForbidden(gr, name, err)
	}
	return nil, nil
}

func everything() []rbacv1.PolicyRule {
	all := []string{"*"}
	return []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
}

func (c *checker) binding(ctx context.Context, req *client.Request, obj, old runtime.Object) (func(bool), error) {
	if obj == nil || slices.Contains(req.User.Groups, authz.GroupMasters) || onlyGarbageCollection(obj, old) {
		return nil, nil
	}
	var ref rbacv1.RoleRef
	switch b := obj.(type) {
	case *rbacv1.RoleBinding:
		ref = b.RoleRef
	case *rbacv1.ClusterRoleBinding:
		ref = b.RoleRef
	default:
		return nil, fmt.Errorf("role binding hook got %T", obj)
	}
	bound := client.ClusterRoles.GroupResource()
	if ref.Kind == "Role" {
		bound = client.Roles.GroupResource()
	}
	if ok, err := c.may(ctx, req, "bind", bound, ref.Name); err != nil {
		return nil, err
	} else if ok {
		return nil, nil
	}
	granted, err := c.resolver.RoleRules(ctx, ref, req.Namespace)
	if apierrors.IsNotFound(err) { // upstream says it of the binding's resource
		return nil, apierrors.NewNotFound(req.Resource.GroupResource(), ref.Name)
	}
	if err != nil {
		return nil, err
	}
	if err := c.confirm(ctx, req, granted); err != nil {
		return nil, apierrors.NewForbidden(req.Resource.GroupResource(), nameOf(req, obj), err)
	}
	return nil, nil
}

func nameOf(req *client.Request, obj runtime.Object) string {
	if o, ok := obj.(client.Object); ok && o.GetName() != "" {
		return o.GetName()
	}
	return req.Name
}

func (c *checker) may(ctx context.Context, req *client.Request, verb string, gr schema.GroupResource, name string) (bool, error) {
	d, _, err := c.auth.Authorize(ctx, &authz.Attributes{
		User: req.User, Verb: verb, Group: gr.Group, Version: "*", Resource: gr.Resource, Name: name, Namespace: req.Namespace,
	})
	if d == authz.Allow {
		return true, nil
	}
	return false, err
}

// confirm returns an error that names the rules which the user lacks.
func (c *checker) confirm(ctx context.Context, req *client.Request, want []rbacv1.PolicyRule) error {
	own, resolveErr := c.resolver.Rules(ctx, req.User, req.Namespace)
	missing := rules.Uncovered(own, want)
	if len(missing) == 0 {
		return nil
	}
	lines := map[string]bool{}
	for _, r := range rules.Compact(missing) {
		lines[rules.Describe(&r)] = true
	}
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		req.User.Name, req.User.Groups, strings.Join(slices.Sorted(maps.Keys(lines)), "\n"))
	if resolveErr != nil {
		text += fmt.Sprintf("; resolution errors: [%v]", resolveErr)
	}
	return errors.New(text)
}

// onlyGarbageCollection says that an update touches nothing but what the
// garbage collector needs to change.
func onlyGarbageCollection(obj, old runtime.Object) bool {
	if old == nil || reflect.ValueOf(old).IsNil() {
		return false
	}
	o, ok := obj.DeepCopyObject().(client.Object)
	was, ok2 := old.(client.Object)
	if !ok || !ok2 {
		return false
	}
	if len(o.GetFinalizers()) > len(was.GetFinalizers()) {
		return false
	}
	o.SetOwnerReferences(was.GetOwnerReferences())
	o.SetFinalizers(was.GetFinalizers())
	o.SetManagedFields(was.GetManagedFields())
	o.SetResourceVersion(was.GetResourceVersion())
	return equality.Semantic.DeepEqual(o, was)
}
