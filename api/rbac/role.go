package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
)

func roleKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("Role")
	return &api.Kind{
		Hub: gvk, HubListKind: "RoleList",
		Resource: "roles", Singular: "role",
		Namespaced: true, Prefix: "roles",
		New: api.New[rbacv1.Role](), NewList: api.New[rbacv1.RoleList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Validate:            api.Check(func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
			ValidateUpdate:      api.Check2(func(r, _ *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
			ValidateName:        validateName,
			AllowCreateOnUpdate: true,
		},
		Columns: roleColumns(),
		Cells:   api.Cells(func(r *rbacv1.Role) []any { return []any{r.Name, createdAt(r.CreationTimestamp)} }),
	}
}
