package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
)

func clusterRoleBindingKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding")
	validate := func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return validateBinding(b.RoleRef, b.Subjects, false, "ClusterRole")
	}
	return &api.Kind{
		Hub: gvk, HubListKind: "ClusterRoleBindingList",
		Resource: "clusterrolebindings", Singular: "clusterrolebinding",
		Prefix: "clusterrolebindings",
		New:    api.New[rbacv1.ClusterRoleBinding](), NewList: api.New[rbacv1.ClusterRoleBindingList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default:  api.On(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
			Validate: api.Check(validate),
			ValidateUpdate: api.Check2(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
				return append(validate(b), sameRole(b.RoleRef, old.RoleRef)...)
			}),
			ValidateName:        validateName,
			AllowCreateOnUpdate: true,
		},
		Columns: bindingColumns("clusterRoleBinding", rbacv1beta1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"]),
		Cells:   api.Cells(func(b *rbacv1.ClusterRoleBinding) []any { return bindingCells(&b.ObjectMeta, b.RoleRef, b.Subjects) }),
	}
}
