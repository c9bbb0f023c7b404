package plugins

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// claimStatus has those who write a claim's status show that they may write
// that part of it: who uses the claim and what it has is for those who may
// write resourceclaims/binding, and what drivers say of their devices for those
// who may for the driver, on any node or on their own only (the feature
// DRAResourceClaimGranularStatusAuthorization). Upstream checks that with the
// claim, so no flag switches it off.
func claimStatus(d deps) *plugin {
	return &plugin{name: "ResourceClaimStatusAuthorization", ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		old, ok := a.Old.(*resourcev1.ResourceClaim)
		claim, ok2 := a.Object.(*resourcev1.ResourceClaim)
		if !ok || !ok2 || a.Subresource != "status" {
			return nil
		}
		var errs field.ErrorList
		status := field.NewPath("status")
		if !equality.Semantic.DeepEqual(claim.Status.Allocation, old.Status.Allocation) || !equality.Semantic.DeepEqual(claim.Status.ReservedFor, old.Status.ReservedFor) {
			// Whoever may bind claims may do so in every namespace.
			if !d.mayClaim(ctx, &a.User, "", "binding", "", "update", "patch") {
				errs = append(errs, field.Forbidden(status.Child("allocation"), "changing status.allocation or status.reservedFor "+
					cannot(&a.User, "", "binding", "", "update", "update")))
			}
		}
		for _, driver := range sets.List(changedDrivers(old, claim)) {
			where := []string{"arbitrary-node"}
			if onNodeOf(&a.User, old) {
				where = []string{"associated-node", "arbitrary-node"}
			}
			var verbs, wanted []string
			for _, w := range where {
				verbs, wanted = append(verbs, w+":update", w+":patch"), append(wanted, w+":update")
			}
			if !d.mayClaim(ctx, &a.User, a.Namespace, "driver", driver, verbs...) {
				errs = append(errs, field.Forbidden(status.Child("devices"), "changing status.devices "+
					cannot(&a.User, a.Namespace, "driver", driver, wanted[0], fmt.Sprint(wanted))))
			}
		}
		if len(errs) > 0 {
			return apierrors.NewInvalid(a.Kind.GroupKind(), a.ShownName(), errs)
		}
		return nil
	}}
}

// cannot words a refusal as authorization does; wanted are the verbs as they
// are told to whoever is to ask for them.
func cannot(u *client.User, namespace, part, name, verb, wanted string) string {
	resource, object, where := "resourceclaims/"+part, "", "at the cluster scope"
	if name != "" {
		object = fmt.Sprintf(" %q", name)
	}
	if namespace != "" {
		where = fmt.Sprintf("in the namespace %q", namespace)
	}
	return fmt.Sprintf("requires resource=%q, verb=%q permission: resourceclaims.%s%s is forbidden: User %q cannot %s resource %q in API group %q %s",
		resource, wanted, resourcev1.GroupName, object, u.Name, verb, resource, resourcev1.GroupName, where)
}

// mayClaim says that the user has one of the verbs for a part of claims, in a
// namespace or ("") in all.
func (d deps) mayClaim(ctx context.Context, u *client.User, namespace, part, name string, verbs ...string) bool {
	for _, verb := range verbs {
		decision, _, err := d.authz.Authorize(ctx, &authz.Attributes{
			User: *u, Verb: verb, Group: resourcev1.GroupName, Version: "*", Resource: "resourceclaims", Subresource: part, Namespace: namespace, Name: name,
		})
		if err != nil {
			d.log.Warn("cannot tell whether a user may write a claim's status", "user", u.Name, "verb", verb, "part", part, "error", err)
		}
		if decision == authz.Allow {
			return true
		}
	}
	return false
}

// changedDrivers are those of whose devices a write says something else. What
// goes with the allocation is no word of the driver's.
func changedDrivers(old, claim *resourcev1.ResourceClaim) sets.Set[string] {
	out := sets.New[string]()
	if claim.Status.Allocation == nil && len(claim.Status.Devices) == 0 {
		return out
	}
	type key struct{ driver, pool, device, share string }
	of := func(s *resourcev1.AllocatedDeviceStatus) key {
		k := key{driver: s.Driver, pool: s.Pool, device: s.Device}
		if s.ShareID != nil {
			k.share = *s.ShareID
		}
		return k
	}
	before := map[key]*resourcev1.AllocatedDeviceStatus{}
	for i := range old.Status.Devices {
		before[of(&old.Status.Devices[i])] = &old.Status.Devices[i]
	}
	for i := range claim.Status.Devices {
		s := &claim.Status.Devices[i]
		if was := before[of(s)]; was == nil || !equality.Semantic.DeepEqual(was, s) {
			out.Insert(s.Driver)
		}
		delete(before, of(s))
	}
	for k := range before {
		out.Insert(k.driver)
	}
	return out
}

// onNodeOf says that a user is a service account that acts for the one node on
// which a claim has its devices.
func onNodeOf(u *client.User, c *resourcev1.ResourceClaim) bool {
	from := u.Extra[authn.ExtraNodeName]
	if !strings.HasPrefix(u.Name, "system:serviceaccount:") || len(from) != 1 || c.Status.Allocation == nil || c.Status.Allocation.NodeSelector == nil {
		return false
	}
	terms := c.Status.Allocation.NodeSelector.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchExpressions) > 0 || len(terms[0].MatchFields) != 1 {
		return false
	}
	f := terms[0].MatchFields[0]
	return f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 && f.Values[0] == from[0]
}
