// Package admissionregistration holds the rows of the API group of admission
// webhooks and policies: objects of the group go in, defaulted, prepared,
// judged and printed ones come out.
package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		mutatingWebhookKind(),
		validatingWebhookKind(),
		validatingPolicyKind(),
		validatingBindingKind(),
		storedMutatingPolicy(),
		storedMutatingBinding(),
	}
}

// row is what the rows of the group have in common.
func row(kind, resource, singular string) *api.Kind {
	gvk := admissionv1.SchemeGroupVersion.WithKind(kind)
	return &api.Kind{
		Hub: gvk, HubListKind: kind + "List", Resource: resource, Singular: singular, Prefix: resource,
		Categories: []string{"api-extensions"}, Views: api.Serve(gvk),
	}
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRef(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return "<unset>"
	case r.Selector != nil:
		return r.Selector.String()
	case r.Name == "":
		return "*/*"
	case r.Namespace == "":
		return "*/" + r.Name
	}
	return r.Namespace + "/" + r.Name
}

// bindingColumns are those of both kinds of bindings.
func bindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		printing.Name(), printing.String("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
		printing.String("ParamRef", "ParamRef indicates the param resource which sets the configuration param"), printing.AgeColumn(),
	}
}
