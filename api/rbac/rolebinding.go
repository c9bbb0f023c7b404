package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
)

func roleBindingKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("RoleBinding")
	validate := func(b *rbacv1.RoleBinding) field.ErrorList {
		return validateBinding(b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
	}
	return &api.Kind{
		Hub: gvk, HubListKind: "RoleBindingList",
		Resource: "rolebindings", Singular: "rolebinding",
		Namespaced: true, Prefix: "rolebindings",
		New: api.New[rbacv1.RoleBinding](), NewList: api.New[rbacv1.RoleBindingList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default:  api.On(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
			Validate: api.Check(validate),
			ValidateUpdate: api.Check2(func(b, old *rbacv1.RoleBinding) field.ErrorList {
				return append(validate(b), sameRole(b.RoleRef, old.RoleRef)...)
			}),
			ValidateName:        validateName,
			AllowCreateOnUpdate: true,
		},
		Columns: bindingColumns("roleBinding", "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error."),
		Cells:   api.Cells(func(b *rbacv1.RoleBinding) []any { return bindingCells(&b.ObjectMeta, b.RoleRef, b.Subjects) }),
	}
}
