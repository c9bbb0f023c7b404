package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

const maxControllerName = 250

func ingressClassKind() *api.Kind {
	gvk := networkingv1.SchemeGroupVersion.WithKind("IngressClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "IngressClassList",
		Resource: "ingressclasses", Singular: "ingressclass",
		Prefix: "ingressclasses",
		New:    api.New[networkingv1.IngressClass](), NewList: api.New[networkingv1.IngressClassList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(func(c *networkingv1.IngressClass) {
				if p := c.Spec.Parameters; p != nil {
					api.DefaultPtr(&p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
				}
			}),
			PrepareCreate: func(o runtime.Object) { o.(*networkingv1.IngressClass).Generation = 1 },
			PrepareUpdate: func(o, prev runtime.Object) {
				c, old := o.(*networkingv1.IngressClass), prev.(*networkingv1.IngressClass)
				api.CountGeneration(c, old, c.Spec, old.Spec)
			},
			Validate: api.Check(validateIngressClass),
			ValidateUpdate: api.Check2(func(c, old *networkingv1.IngressClass) field.ErrorList {
				return append(check.Immutable(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller")),
					validateIngressClass(c)...)
			}),
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Controller", "Controller that is responsible for handling this class"),
			printing.String("Parameters", "A reference to a resource with additional parameters"),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(c *networkingv1.IngressClass) []any {
			params := printing.None
			if p := c.Spec.Parameters; p != nil {
				gk := schema.GroupKind{Kind: p.Kind}
				if p.APIGroup != nil {
					gk.Group = *p.APIGroup
				}
				params = strings.TrimSuffix(gk.String(), ".") + "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, params, printing.Age(c.CreationTimestamp)}
		}),
	}
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	at := field.NewPath("spec", "controller")
	var errs field.ErrorList
	if len(c.Spec.Controller) > maxControllerName {
		errs = append(errs, field.TooLong(at, "" /*unused*/, maxControllerName))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	return append(errs, validateParameters(c.Spec.Parameters, field.NewPath("spec", "parameters"))...)
}

// validateParameters checks the reference to a class's parameters.
func validateParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = append(errs, check.Subdomain(*p.APIGroup, at.Child("apiGroup"))...)
	}
	for _, f := range []struct{ name, value string }{{"kind", p.Kind}, {"name", p.Name}} {
		if f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), ""))
		} else {
			errs = append(errs, check.Each(at.Child(f.name), f.value, path.ValidatePathSegmentName(f.value, false))...)
		}
	}
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	const cluster, namespace = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	errs = append(errs, check.OneOf(*p.Scope, at.Child("scope"), cluster, namespace)...)
	switch {
	case *p.Scope == namespace && p.Namespace == nil:
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *p.Scope == namespace:
		errs = append(errs, check.Each(at.Child("namespace"), *p.Namespace, validation.IsDNS1123Label(*p.Namespace))...)
	case *p.Scope == cluster && p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	}
	return errs
}
