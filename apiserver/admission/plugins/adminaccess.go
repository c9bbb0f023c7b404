package plugins

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/client"
)

// adminAccess lets claims have devices that others use only in namespaces that
// are marked for it (KEP-5018). Upstream checks that with the claim, so no flag
// switches it off.
func adminAccess(d deps) *plugin {
	return &plugin{name: "ResourceClaimAdminAccess", ops: ops(admission.Create), validate: func(ctx context.Context, a *admission.Attributes) error {
		var requests []resourcev1.DeviceRequest
		switch o := a.Object.(type) {
		case *resourcev1.ResourceClaim:
			requests = o.Spec.Devices.Requests
		case *resourcev1.ResourceClaimTemplate:
			requests = o.Spec.Spec.Devices.Requests // the path is the claim's, as upstream has it
		}
		if len(requests) == 0 {
			return nil
		}
		at := field.NewPath("spec", "devices", "requests")
		var errs field.ErrorList
		for i := range requests {
			if e := requests[i].Exactly; e != nil && e.AdminAccess != nil && *e.AdminAccess {
				errs = append(errs, field.Forbidden(at.Index(i).Child("adminAccess"),
					"admin access to devices requires the `"+resourcev1.DRAAdminNamespaceLabelKey+": true` label on the containing namespace"))
			}
		}
		if len(errs) == 0 {
			return nil
		}
		ns, err := get(ctx, client.Namespaces.In(d.door, ""), a.Namespace)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
			return nil
		}
		return apierrors.NewInvalid(a.Kind.GroupKind(), a.ShownName(), errs)
	}}
}
