// Package node authorizes kubelets: a node may read what its own pods need
// and write its own state, nothing else ("Using Node Authorization" in the
// documentation). A watch of all pods goes in; each question is answered from
// the pods of one node.
package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/authz/rules"
	"github.com/coxswain/cox/client"
)

// GroupNodes is the group of all kubelets, whose user names are
// system:node:NAME.
const GroupNodes = "system:nodes"

// Identify returns the node that a user is, and whether the user is one;
// name is "" for a node without a name, which may do nothing.
func Identify(u *client.User) (name string, isNode bool) {
	if !slices.Contains(u.Groups, GroupNodes) {
		return "", false
	}
	name, ok := strings.CutPrefix(u.Name, "system:node:")
	if !ok {
		return "", false
	}
	return name, true
}

// Authorizer allows what nodes may do. It is safe for concurrent use.
type Authorizer struct {
	pods *podIndex
	door client.Interface
	base []rbacv1.PolicyRule
}

// New returns an authorizer. base are the rules of the role system:node,
// which hold for what is not judged object by object. door is read for
// volumes, claims and the like, and watched by Run for pods; its user must
// be allowed that without this authorizer.
func New(door client.Interface, base []rbacv1.PolicyRule) *Authorizer {
	return &Authorizer{pods: newPodIndex(), door: door, base: base}
}

// Run follows the pods until ctx ends. Questions about what pods refer to
// wait for the first list.
func (a *Authorizer) Run(ctx context.Context) { a.pods.run(ctx, a.door) }

// noRule is judge's answer where the rules of all nodes allow nothing.
const noRule = "no rule"

const unrelated = "no relationship found between node '%s' and this object"

// Authorize implements authz.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, attrs *authz.Attributes) (authz.Decision, string, error) {
	node, isNode := Identify(&attrs.User)
	if !isNode {
		return authz.NoOpinion, "", nil
	}
	if node == "" {
		return authz.NoOpinion, fmt.Sprintf("unknown node for user %q", attrs.User.Name), nil
	}
	reason, err := a.judge(ctx, node, attrs)
	if reason == noRule {
		return authz.NoOpinion, "", err // of what no node may, there is nothing to say
	}
	if err != nil || reason != "" {
		return authz.NoOpinion, reason, err
	}
	return authz.Allow, "", nil
}

// judge returns why not, "" for yes.
func (a *Authorizer) judge(ctx context.Context, node string, at *authz.Attributes) (string, error) {
	if !at.IsResource() {
		return a.byRules(at), nil
	}
	switch at.Group + "/" + at.Resource {
	case "/secrets", "/configmaps":
		return a.readOne(ctx, node, at, true)
	case "/persistentvolumeclaims":
		if at.Subresource == "status" {
			return a.related(ctx, node, at, "get", "update", "patch")
		}
		return a.readOne(ctx, node, at, false)
	case "/persistentvolumes", "storage.k8s.io/volumeattachments", "resource.k8s.io/resourceclaims":
		return a.readOne(ctx, node, at, false)
	case "/serviceaccounts":
		if at.Subresource == "token" {
			return a.related(ctx, node, at, "create")
		}
		if at.Verb != "get" {
			return "can only create tokens for individual service accounts", nil
		}
		return a.readOne(ctx, node, at, false)
	case "coordination.k8s.io/leases":
		return a.lease(node, at), nil
	case "storage.k8s.io/csinodes":
		return own(node, at, "CSINode"), nil
	case "resource.k8s.io/resourceslices":
		return a.resourceSlice(ctx, node, at)
	case "certificates.k8s.io/podcertificaterequests":
		return a.podRequest(ctx, node, at)
	case "/nodes":
		return a.nodeObject(node, at), nil
	case "/pods":
		return a.pod(ctx, node, at)
	}
	return a.byRules(at), nil
}

// byRules is for what all nodes may do alike.
func (a *Authorizer) byRules(at *authz.Attributes) string {
	for i := range a.base {
		r := &a.base[i]
		if !rules.Matches(r.Verbs, at.Verb) {
			continue
		}
		if !at.IsResource() {
			if slices.ContainsFunc(r.NonResourceURLs, func(p string) bool { return rules.PathMatches(p, at.Path) }) {
				return ""
			}
			continue
		}
		resource := at.Resource
		if at.Subresource != "" {
			resource += "/" + at.Subresource
		}
		if rules.Matches(r.APIGroups, at.Group) && rules.Matches(r.Resources, resource) &&
			(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, at.Name)) {
			return ""
		}
	}
	return noRule
}

// readOne allows reading a single object that the node's pods refer to.
// watched kinds may also be listed and watched one object at a time.
func (a *Authorizer) readOne(ctx context.Context, node string, at *authz.Attributes, watched bool) (string, error) {
	switch at.Verb {
	case "get":
	case "list", "watch":
		if !watched {
			return "can only get individual resources of this type", nil
		}
	default:
		if !watched {
			return "can only get individual resources of this type", nil
		}
		return "can only read resources of this type", nil
	}
	if at.Subresource != "" {
		return "cannot read subresource", nil
	}
	if at.Name == "" {
		return "No Object name found", nil
	}
	return a.isRelated(ctx, node, at)
}

// related allows the verbs on what the node's pods refer to.
func (a *Authorizer) related(ctx context.Context, node string, at *authz.Attributes, verbs ...string) (string, error) {
	switch {
	case !slices.Contains(verbs, at.Verb):
		return fmt.Sprintf("can only %s this type", strings.Join(verbs, "/")), nil
	case at.Name == "":
		return "No Object name found", nil
	}
	return a.isRelated(ctx, node, at)
}

func (a *Authorizer) isRelated(ctx context.Context, node string, at *authz.Attributes) (string, error) {
	ok, err := a.refers(ctx, node, at.Resource, at.Namespace, at.Name)
	if err != nil {
		return "", err
	}
	if !ok {
		return fmt.Sprintf(unrelated, node), nil
	}
	return "", nil
}

func (a *Authorizer) lease(node string, at *authz.Attributes) string {
	if !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, at.Verb) {
		return "can only get, create, update, patch, or delete a node lease"
	}
	if at.Namespace != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	// The name in a create's body is up to NodeRestriction.
	if at.Name != node && (at.Verb != "create" || at.Name != "") {
		return "can only access node lease with the same name as the requesting node"
	}
	return ""
}

// own allows a node to keep the one object that has its name.
func own(node string, at *authz.Attributes, kind string) string {
	if !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, at.Verb) {
		return fmt.Sprintf("can only get, create, update, patch, or delete a %s", kind)
	}
	if at.Subresource != "" {
		return fmt.Sprintf("cannot authorize %s subresources", kind)
	}
	if at.Name != node && (at.Verb != "create" || at.Name != "") {
		return fmt.Sprintf("can only access %s with the same name as the requesting node", kind)
	}
	return ""
}

func (a *Authorizer) resourceSlice(ctx context.Context, node string, at *authz.Attributes) (string, error) {
	if at.Subresource != "" {
		return "cannot authorize ResourceSlice subresources", nil
	}
	switch at.Verb {
	case "create": // its node is up to NodeRestriction
		return "", nil
	case "list", "watch", "deletecollection":
		if selects(at.FieldSelector, "spec.nodeName", node) {
			return "", nil
		}
		return "can only list/watch/deletecollection resourceslices with nodeName field selector", nil
	case "get", "update", "patch", "delete":
		return a.isRelated(ctx, node, at)
	}
	return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection", nil
}

// podRequest lets a node ask for its pods' certificates and see the answers
// (KEP-4317), where the feature is on: the rules of all nodes say so.
func (a *Authorizer) podRequest(ctx context.Context, node string, at *authz.Attributes) (string, error) {
	if !slices.ContainsFunc(a.base, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, at.Resource) }) {
		return noRule, nil
	}
	if at.Subresource != "" {
		return "nodes may not access the status subresource of PodCertificateRequests", nil
	}
	switch at.Verb {
	case "create": // for which pods is up to NodeRestriction
		return "", nil
	case "get":
		return a.isRelated(ctx, node, at)
	case "list", "watch":
		if selects(at.FieldSelector, "spec.nodeName", node) {
			return "", nil
		}
		return "can only list/watch podcertificaterequests with nodeName field selector", nil
	}
	return fmt.Sprintf("nodes may not %s podcertificaterequests", at.Verb), nil
}

func (a *Authorizer) nodeObject(node string, at *authz.Attributes) string {
	if at.Subresource == "" {
		switch at.Verb {
		case "get", "list", "watch":
			if at.Name == node || (at.Name == "" && selects(at.FieldSelector, "metadata.name", node)) {
				return ""
			}
			if at.Name == "" {
				return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
			}
			return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, at.Name)
		}
	}
	return a.byRules(at) // which node is written is up to NodeRestriction
}

func (a *Authorizer) pod(ctx context.Context, node string, at *authz.Attributes) (string, error) {
	switch at.Subresource {
	case "":
		switch at.Verb {
		case "get":
			return a.isRelated(ctx, node, at)
		case "list", "watch":
			if selects(at.FieldSelector, "spec.nodeName", node) {
				return "", nil
			}
			if at.Name != "" {
				return a.isRelated(ctx, node, at)
			}
			return "can only list/watch pods with spec.nodeName field selector", nil
		case "create", "delete": // which ones is up to NodeRestriction
			return "", nil
		}
	case "status":
		if at.Verb == "update" || at.Verb == "patch" {
			return "", nil
		}
	case "eviction":
		if at.Verb == "create" {
			return "", nil
		}
	}
	return a.byRules(at), nil
}

// selects says that a field selector demands the value.
func selects(s fields.Selector, name, value string) bool {
	if s == nil {
		return false
	}
	got, ok := s.RequiresExactMatch(name)
	return ok && got == value
}
