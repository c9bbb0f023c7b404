package core

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func serviceAccount() *api.Kind {
	k := row("ServiceAccount", "serviceaccounts", "serviceaccount", true, "serviceaccounts", "sa")
	k.ReturnDeleted = true
	k.New, k.NewList = api.New[corev1.ServiceAccount](), api.New[corev1.ServiceAccountList]()
	k.Strategy = api.Strategy{
		PrepareCreate: api.On(cleanReferences),
		PrepareUpdate: api.On2(func(s, _ *corev1.ServiceAccount) { cleanReferences(s) }),
		// The references are the token controller's to keep tidy; a service
		// account has no content that is checked.
		ValidateName: apivalidation.NameIsDNSSubdomain,
		Warnings:     warnings(serviceAccountWarnings),
	}
	tokenRequest := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	k.Subresources = map[string]api.Subresource{"token": {
		Verbs: []string{"create"},
		Action: &api.Action{
			GVK: tokenRequest, Result: tokenRequest, New: api.New[authenticationv1.TokenRequest](),
			Schema: tokenRequestSchema,
			Default: func(o runtime.Object) {
				defPtr(&o.(*authenticationv1.TokenRequest).Spec.ExpirationSeconds, int64(3600))
			},
			Validate: func(o runtime.Object) field.ErrorList {
				return validateTokenRequest(o.(*authenticationv1.TokenRequest))
			},
		},
	}}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(s *corev1.ServiceAccount) []any {
		return []any{s.Name, printing.Age(s.CreationTimestamp)}
	})
	return k
}

// cleanReferences leaves of the references to secrets, which lie in the same
// namespace, nothing but the names.
func cleanReferences(s *corev1.ServiceAccount) {
	for i := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: s.Secrets[i].Name}
	}
}

// tokenRequestSchema is how the fields of a TokenRequest are owned: the
// published schemas for apply leave it out, since it is never stored.
const tokenRequestSchema = `types:
- name: io.k8s.api.authentication.v1.TokenRequest
  map:
    fields:
    - {name: apiVersion, type: {scalar: string}}
    - {name: kind, type: {scalar: string}}
    - name: metadata
      type:
        map:
          fields:
          - {name: finalizers, type: {list: {elementType: {scalar: string}, elementRelationship: associative}}}
          - {name: ownerReferences, type: {list: {elementType: {namedType: any}, elementRelationship: associative, keys: [uid]}}}
          elementType: {namedType: any}
    - name: spec
      type:
        map:
          fields:
          - {name: audiences, type: {list: {elementType: {scalar: string}, elementRelationship: atomic}}}
          - name: boundObjectRef
            type: {map: {fields: [{name: apiVersion, type: {scalar: string}}, {name: kind, type: {scalar: string}},
              {name: name, type: {scalar: string}}, {name: uid, type: {scalar: string}}]}}
          - {name: expirationSeconds, type: {scalar: numeric}}
    - {name: status, type: {map: {fields: [{name: expirationTimestamp, type: {scalar: untyped}}, {name: token, type: {scalar: string}}]}}}
- name: any
  scalar: untyped
  list: {elementType: {namedType: any}, elementRelationship: atomic}
  map: {elementType: {namedType: any}, elementRelationship: separable}
`

// validateTokenRequest bounds a token's lifetime: ten minutes to 2^32 seconds.
func validateTokenRequest(t *authenticationv1.TokenRequest) field.ErrorList {
	path := field.NewPath("spec", "expirationSeconds")
	switch s := t.Spec.ExpirationSeconds; {
	case s == nil:
	case *s < 10*60:
		return field.ErrorList{field.Invalid(path, *s, "may not specify a duration less than 10 minutes")}
	case *s > 1<<32:
		return field.ErrorList{field.Invalid(path, *s, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}
