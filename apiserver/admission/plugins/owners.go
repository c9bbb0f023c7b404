package plugins

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
)

// ownerReferences lets only those make an object go with another who may
// delete it, and only those hold up the other's deletion who may set its
// finalizers.
func ownerReferences(d deps) *plugin {
	return &plugin{ops: ops(admission.Create, admission.Update), validate: d.ownersAllowed}
}

func (d deps) ownersAllowed(ctx context.Context, a *admission.Attributes) error {
	if is(a, podsResource, "status") {
		return nil // a node's report, which changes no owners
	}
	obj, ok := a.Object.(metav1.Object)
	if !ok {
		return nil
	}
	var had []metav1.OwnerReference
	if old, ok := a.Old.(metav1.Object); ok && a.Operation == admission.Update {
		had = old.GetOwnerReferences()
	}
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 && len(had) == 0 || equality.Semantic.DeepEqual(refs, had) {
		return nil
	}
	if a.Operation == admission.Update { // who makes an object owns up to it
		decision, reason, err := d.authz.Authorize(ctx, &authz.Attributes{
			User: a.User, Verb: "delete", Namespace: a.Namespace, Group: a.Resource.Group, Version: a.Resource.Version,
			Resource: a.Resource.Resource, Subresource: a.Subresource, Name: a.Name,
		})
		if decision != authz.Allow {
			return forbid(a, fmt.Sprintf("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err))
		}
	}
	for _, ref := range newlyBlocking(refs, had) {
		if err := d.mayBlock(ctx, a, &ref); err != nil {
			return err
		}
	}
	return nil
}

// newlyBlocking are the references that block their owner's deletion and did
// not before.
func newlyBlocking(refs, had []metav1.OwnerReference) []metav1.OwnerReference {
	blocks := func(r *metav1.OwnerReference) bool { return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion }
	before := map[string]bool{}
	for i := range had {
		before[string(had[i].UID)] = blocks(&had[i])
	}
	var out []metav1.OwnerReference
	for i := range refs {
		if blocks(&refs[i]) && !before[string(refs[i].UID)] {
			out = append(out, refs[i])
		}
	}
	return out
}

func (d deps) mayBlock(ctx context.Context, a *admission.Attributes, ref *metav1.OwnerReference) error {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	resource, namespaced, ok := d.owners(gvk)
	if !ok {
		return forbid(a, fmt.Sprintf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %v Kind %v: no matches for kind %q in version %q", ref.APIVersion, ref.Kind, ref.Kind, ref.APIVersion))
	}
	at := &authz.Attributes{
		User: a.User, Verb: "update", Group: gvk.Group, Version: gvk.Version, Resource: resource, Subresource: "finalizers", Name: ref.Name,
	}
	if namespaced {
		at.Namespace = a.Namespace
	}
	decision, reason, err := d.authz.Authorize(ctx, at)
	if decision != authz.Allow {
		return forbid(a, fmt.Sprintf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, err))
	}
	return nil
}
