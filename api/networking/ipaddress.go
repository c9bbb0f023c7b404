package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

func ipAddressKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("IPAddress")
	return &api.Kind{
		Hub: gvk, HubListKind: "IPAddressList",
		Resource: "ipaddresses", Singular: "ipaddress",
		ShortNames: []string{"ip"},
		Prefix:     "ipaddresses",
		New:        api.New[networkingv1.IPAddress](), NewList: api.New[networkingv1.IPAddressList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Validate: api.Check(validateIPAddress),
			ValidateUpdate: api.Check2(func(a, old *networkingv1.IPAddress) field.ErrorList {
				return append(validateIPAddress(a), check.Immutable(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
			}),
			// The name is the address, in the one form that makes it unique.
			ValidateName: func(name string, _ bool) []string {
				var out []string
				for _, e := range validation.IsValidIP(nil, name) {
					out = append(out, e.Detail)
				}
				return out
			},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
			// Upstream sends an age and has no column for it.
		},
		Cells: api.Cells(func(a *networkingv1.IPAddress) []any {
			return []any{a.Name, parentCell(a.Spec.ParentRef), printing.Age(a.CreationTimestamp)}
		}),
	}
}

func parentCell(r *networkingv1.ParentReference) string {
	if r == nil {
		return printing.None
	}
	out := strings.ToLower(r.Resource)
	if r.Group != "" {
		out += "." + r.Group
	}
	if r.Namespace != "" {
		out += "/" + r.Namespace
	}
	return out + "/" + r.Name
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	at := field.NewPath("spec", "parentRef")
	r := a.Spec.ParentRef
	if r == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if r.Group != "" {
		errs = append(errs, check.Each(at.Child("group"), r.Group, validation.IsDNS1123Subdomain(r.Group))...)
	}
	for _, f := range []struct {
		name, value string
		required    bool
	}{{"resource", r.Resource, true}, {"name", r.Name, true}, {"namespace", r.Namespace, false}} {
		switch {
		case f.value != "":
			errs = append(errs, check.Each(at.Child(f.name), f.value, path.IsValidPathSegmentName(f.value))...)
		case f.required:
			errs = append(errs, field.Required(at.Child(f.name), ""))
		}
	}
	return errs
}
