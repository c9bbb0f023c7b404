package rbacdefaults

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/authz/rules"
	"github.com/coxswain/cox/client"
)

// Revisions are the newest resourceVersions of ClusterRoles,
// ClusterRoleBindings, Roles and RoleBindings that Reconcile has read or
// written, as rbac.Authorizer.Caught takes them.
type Revisions [4]uint64

// Reconcile writes what is missing of the policy through door, whose user
// must be in system:masters: absent objects, rules and subjects that a role
// or binding lacks (none is taken away), labels and annotations. Objects
// whose annotation rbac.authorization.kubernetes.io/autoupdate is "false" are
// left alone. It reads one list per kind and makes its writes side by side,
// so that they share the store's commits.
func Reconcile(ctx context.Context, door client.Interface, p *Policy) (Revisions, error) {
	var rv Revisions
	var errs [4]error
	var wg sync.WaitGroup
	wg.Go(func() {
		rv[0], errs[0] = reconcile(ctx, door, client.ClusterRoles, p.ClusterRoles, fixClusterRole)
	})
	wg.Go(func() {
		rv[1], errs[1] = reconcile(ctx, door, client.ClusterRoleBindings, p.ClusterRoleBindings, fixClusterRoleBinding)
	})
	wg.Go(func() { rv[2], errs[2] = reconcile(ctx, door, client.Roles, p.Roles, fixRole) })
	wg.Go(func() { rv[3], errs[3] = reconcile(ctx, door, client.RoleBindings, p.RoleBindings, fixRoleBinding) })
	wg.Wait()
	return rv, errors.Join(errs[:]...)
}

// outcome says what an object that is there needs.
type outcome int

const (
	good outcome = iota
	change
	replace // what differs cannot be changed: delete and create
)

// writers is how many writes of a kind are under way at once: enough to fill
// a commit of the store, not so many that they wait for each other.
const writers = 32

func reconcile[T client.Object](ctx context.Context, door client.Interface, k client.Kind[T], want []T, fix func(have, want T) outcome) (uint64, error) {
	have := map[string]T{}
	list, _, err := k.In(door, "").List(ctx, client.Options{})
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", k.Resource, err)
	}
	// The list's own revision will not do: other kinds raise it, and who
	// follows this kind never sees that.
	newest := uint64(0)
	for _, o := range list {
		have[o.GetNamespace()+"/"+o.GetName()] = o
		newest = max(newest, parseRevision(o.GetResourceVersion()))
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	turn := make(chan struct{}, writers)
	for _, w := range want {
		old, exists := have[w.GetNamespace()+"/"+w.GetName()]
		if exists && (old.GetAnnotations()[autoUpdate] == "false" || fix(old.DeepCopyObject().(T), w) == good) {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			rv, err := write(ctx, door, k, w, exists, fix)
			mu.Lock()
			defer mu.Unlock()
			newest = max(newest, rv)
			if err != nil {
				errs = append(errs, fmt.Errorf("default %s %s: %w", k.Kind, w.GetName(), err))
			}
		})
	}
	wg.Wait()
	return newest, errors.Join(errs...)
}

func parseRevision(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// write creates or repairs one object. Another server may do the same at the
// same time: whoever comes second finds the work done.
func write[T client.Object](ctx context.Context, door client.Interface, k client.Kind[T], want T, exists bool, fix func(have, want T) outcome) (uint64, error) {
	in := k.In(door, want.GetNamespace())
	if !exists {
		out, err := in.Create(ctx, want.DeepCopyObject().(T))
		if apierrors.IsNotFound(err) && k.Namespaced {
			if err := ensureNamespace(ctx, door, want.GetNamespace()); err != nil {
				return 0, err
			}
			out, err = in.Create(ctx, want.DeepCopyObject().(T))
		}
		if !apierrors.IsAlreadyExists(err) {
			if err != nil {
				return 0, err
			}
			return parseRevision(out.GetResourceVersion()), nil
		}
	}
	again := false
	out, err := in.Mutate(ctx, want.GetName(), "", func(have T) (bool, error) {
		if have.GetAnnotations()[autoUpdate] == "false" {
			return false, nil
		}
		o := fix(have, want)
		again = o == replace
		return o == change, nil
	})
	if err != nil {
		return 0, err
	}
	if !again {
		return parseRevision(out.GetResourceVersion()), nil
	}
	err = in.Delete(ctx, want.GetName(), client.Exactly(out.GetUID()))
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if out, err = in.Create(ctx, want.DeepCopyObject().(T)); err != nil {
		return 0, err
	}
	return parseRevision(out.GetResourceVersion()), nil
}

func ensureNamespace(ctx context.Context, door client.Interface, name string) error {
	_, err := client.Namespaces.In(door, "").Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// addMissing brings the entries of want into have, keeping what is there.
func addMissing(have *map[string]string, want map[string]string) bool {
	changed := false
	for k, v := range want {
		if _, ok := (*have)[k]; ok {
			continue
		}
		if *have == nil {
			*have = map[string]string{}
		}
		(*have)[k] = v
		changed = true
	}
	return changed
}

func addMeta(have, want *metav1.ObjectMeta) bool {
	labels := addMissing(&have.Labels, want.Labels)
	return addMissing(&have.Annotations, want.Annotations) || labels
}

func addRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	missing := rules.Compact(rules.Uncovered(*have, want))
	*have = append(*have, missing...)
	return len(missing) > 0
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) bool {
	changed := false
next:
	for _, w := range want {
		for _, h := range *have {
			if h == w {
				continue next
			}
		}
		*have = append(*have, w)
		changed = true
	}
	return changed
}

func result(changed bool) outcome {
	if changed {
		return change
	}
	return good
}

func fixClusterRole(have, want *rbacv1.ClusterRole) outcome {
	changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
	if want.AggregationRule == nil {
		return result(addRules(&have.Rules, want.Rules) || changed)
	}
	if have.AggregationRule == nil { // from here on the rules are the aggregation's
		have.AggregationRule = want.AggregationRule.DeepCopy()
		return change
	}
	for _, w := range want.AggregationRule.ClusterRoleSelectors {
		found := false
		for _, h := range have.AggregationRule.ClusterRoleSelectors {
			found = found || metav1.FormatLabelSelector(&h) == metav1.FormatLabelSelector(&w)
		}
		if !found {
			have.AggregationRule.ClusterRoleSelectors = append(have.AggregationRule.ClusterRoleSelectors, w)
			changed = true
		}
	}
	// Should no controller fill it, it is at least what it was meant to be.
	if len(have.Rules) == 0 && len(want.Rules) > 0 {
		have.Rules, changed = want.Rules, true
	}
	return result(changed)
}

func fixRole(have, want *rbacv1.Role) outcome {
	changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
	return result(addRules(&have.Rules, want.Rules) || changed)
}

func fixClusterRoleBinding(have, want *rbacv1.ClusterRoleBinding) outcome {
	if have.RoleRef != want.RoleRef {
		return replace
	}
	changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
	return result(addSubjects(&have.Subjects, want.Subjects) || changed)
}

func fixRoleBinding(have, want *rbacv1.RoleBinding) outcome {
	if have.RoleRef != want.RoleRef {
		return replace
	}
	changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
	return result(addSubjects(&have.Subjects, want.Subjects) || changed)
}
