package networking

import (
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

var serviceCIDRParts = api.SpecStatus(func(o *networkingv1.ServiceCIDR) (*networkingv1.ServiceCIDRSpec, *networkingv1.ServiceCIDRStatus) {
	return &o.Spec, &o.Status
})

func serviceCIDRKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR")
	return &api.Kind{
		Hub: gvk, HubListKind: "ServiceCIDRList",
		Resource: "servicecidrs", Singular: "servicecidr",
		Prefix: "servicecidrs",
		New:    api.New[networkingv1.ServiceCIDR](), NewList: api.New[networkingv1.ServiceCIDRList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate:  api.On(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
			PrepareUpdate:  api.On2(func(c, old *networkingv1.ServiceCIDR) { old.Status.DeepCopyInto(&c.Status) }),
			Validate:       api.Check(func(c *networkingv1.ServiceCIDR) field.ErrorList { return validateCIDRs(c.Spec.CIDRs) }),
			ValidateUpdate: api.Check2(validateServiceCIDRUpdate),
		},
		Subresources: map[string]api.Subresource{
			// The conditions are not checked: upstream's controller writes its
			// Ready condition without a reason.
			"status": {Object: &api.Strategy{PrepareUpdate: serviceCIDRParts.PrepareStatus, Resets: []string{"spec", "metadata"}}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(c *networkingv1.ServiceCIDR) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), printing.Age(c.CreationTimestamp)}
		}),
	}
}

// validateCIDRs wants one range, or one of each IP family.
func validateCIDRs(cidrs []string) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	switch {
	case len(cidrs) == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case len(cidrs) > 2:
		return field.ErrorList{field.Invalid(path, cidrs, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	if len(cidrs) == 2 {
		a, err1 := netip.ParsePrefix(cidrs[0])
		b, err2 := netip.ParsePrefix(cidrs[1])
		if err1 == nil && err2 == nil && a.Addr().Is4() == b.Addr().Is4() {
			errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), c)...)
	}
	return errs
}

// validateServiceCIDRUpdate lets a single range get a partner of the other
// family, and nothing else.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	if len(old.Spec.CIDRs) == 1 && len(c.Spec.CIDRs) == 2 {
		errs := validateCIDRs(c.Spec.CIDRs)
		return append(errs, check.Immutable(c.Spec.CIDRs[0], old.Spec.CIDRs[0], path.Index(0))...)
	}
	if len(c.Spec.CIDRs) != len(old.Spec.CIDRs) {
		return check.Immutable(c.Spec.CIDRs, old.Spec.CIDRs, path)
	}
	var errs field.ErrorList
	for i := range c.Spec.CIDRs {
		errs = append(errs, check.Immutable(c.Spec.CIDRs[i], old.Spec.CIDRs[i], path.Index(i))...)
	}
	return errs
}
