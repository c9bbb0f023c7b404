package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/tools/cache"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/rules"
	"github.com/coxswain/cox/client"
)

// Authorizer allows what the rules of a user's roles allow. Until Run has
// read all roles and bindings, its answers wait. It is safe for concurrent
// use.
type Authorizer struct {
	x      *index
	synced [kinds]chan struct{}
}

// New returns an authorizer that knows nothing yet.
func New() *Authorizer {
	a := &Authorizer{x: newIndex()}
	for k := range a.synced {
		a.synced[k] = make(chan struct{})
	}
	return a
}

// Run follows the roles and bindings through door until ctx ends. The door's
// identity must be allowed to list and watch them without this authorizer
// (system:masters), since answers wait for the first list.
func (a *Authorizer) Run(ctx context.Context, door client.Interface) {
	var wg sync.WaitGroup
	follow(ctx, &wg, a, clusterRoles, door, client.ClusterRoles)
	follow(ctx, &wg, a, clusterRoleBindings, door, client.ClusterRoleBindings)
	follow(ctx, &wg, a, namespacedRoles, door, client.Roles)
	follow(ctx, &wg, a, roleBindings, door, client.RoleBindings)
	wg.Wait()
}

func follow[T client.Object](ctx context.Context, wg *sync.WaitGroup, a *Authorizer, k kind, door client.Interface, what client.Kind[T]) {
	r := cache.NewNamedReflector("rbac-"+what.Resource, client.ListWatch(door, what, client.Scope{}), what.New(), &feed{a: a, kind: k}, 0)
	wg.Go(func() { r.RunWithContext(ctx) })
}

// Synced waits until every kind has been read once.
func (a *Authorizer) Synced(ctx context.Context) error {
	for _, c := range a.synced {
		select {
		case <-c:
			continue
		default:
		}
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("RBAC: roles and bindings are not read yet: %w", ctx.Err())
		}
	}
	return nil
}

// Caught waits until the authorizer has seen the given resourceVersions of
// ClusterRoles, ClusterRoleBindings, Roles and RoleBindings ("0" for any), so
// that who has just written them can rely on them.
func (a *Authorizer) Caught(ctx context.Context, rv [4]uint64) error {
	for {
		a.x.mu.RLock()
		behind := slices.ContainsFunc([]int{0, 1, 2, 3}, func(i int) bool { return a.x.seen[i] < rv[i] })
		moved := a.x.moved
		a.x.mu.RUnlock()
		if !behind {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("RBAC: waiting for roles and bindings just written: %w", ctx.Err())
		}
	}
}

// Authorize implements authz.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, attrs *authz.Attributes) (authz.Decision, string, error) {
	if err := a.Synced(ctx); err != nil {
		return authz.NoOpinion, "", err
	}
	var by *grant
	var errs []error
	a.x.visit(&attrs.User, attrs.Namespace, func(g *grant, rule *rbacv1.PolicyRule, err error) bool {
		switch {
		case err != nil:
			errs = append(errs, err)
		case allows(rule, attrs):
			by = g
		}
		return by == nil
	})
	if by != nil {
		return authz.Allow, by.reason, nil
	}
	if len(errs) > 0 {
		return authz.NoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(errs)), nil
	}
	return authz.NoOpinion, "", nil
}

// RulesFor implements authz.RuleResolver.
func (a *Authorizer) RulesFor(ctx context.Context, user client.User, namespace string) ([]authz.ResourceRule, []authz.NonResourceRule, bool, error) {
	all, err := a.Rules(ctx, user, namespace)
	var res []authz.ResourceRule
	var paths []authz.NonResourceRule
	for _, r := range all {
		if len(r.Resources) > 0 {
			res = append(res, authz.ResourceRule{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, authz.NonResourceRule{Verbs: r.Verbs, Paths: r.NonResourceURLs})
		}
	}
	return res, paths, err != nil, err
}

// Rules returns the rules that the user has everywhere and in the namespace
// ("" for none), and an error for roles that are bound but do not exist.
func (a *Authorizer) Rules(ctx context.Context, user client.User, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := a.Synced(ctx); err != nil {
		return nil, err
	}
	var out []rbacv1.PolicyRule
	var errs []error
	a.x.visit(&user, namespace, func(_ *grant, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			errs = append(errs, err)
		} else {
			out = append(out, *rule)
		}
		return true
	})
	if len(errs) > 0 {
		return out, utilerrors.NewAggregate(errs)
	}
	return out, nil
}

// RoleRules returns the rules of the role that a binding in ns names, or 404.
func (a *Authorizer) RoleRules(ctx context.Context, ref rbacv1.RoleRef, ns string) ([]rbacv1.PolicyRule, error) {
	if err := a.Synced(ctx); err != nil {
		return nil, err
	}
	a.x.mu.RLock()
	defer a.x.mu.RUnlock()
	found, err := a.x.rules(ref, ns)
	if err != nil && ref.Kind == "Role" {
		return nil, apierrors.NewNotFound(client.Roles.GroupResource(), ref.Name)
	} else if err != nil {
		return nil, apierrors.NewNotFound(client.ClusterRoles.GroupResource(), ref.Name)
	}
	return found, nil
}

func allows(rule *rbacv1.PolicyRule, a *authz.Attributes) bool {
	if !rules.Matches(rule.Verbs, a.Verb) {
		return false
	}
	if !a.IsResource() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(p string) bool { return rules.PathMatches(p, a.Path) })
	}
	return rules.Matches(rule.APIGroups, a.Group) && resourceMatches(rule.Resources, a.Resource, a.Subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

// resourceMatches knows "pods", "pods/log", "*/scale" and "*".
func resourceMatches(list []string, resource, sub string) bool {
	for _, s := range list {
		if s == "*" {
			return true
		}
		res, subres, hasSub := strings.Cut(s, "/")
		switch {
		case !hasSub:
			if sub == "" && s == resource {
				return true
			}
		case sub != "" && subres == sub && (res == resource || res == "*"):
			return true
		}
	}
	return false
}
