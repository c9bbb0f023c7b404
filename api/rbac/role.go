package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

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
	}
}
