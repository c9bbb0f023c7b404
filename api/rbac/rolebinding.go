package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/coxswain/cox/api"
)

func roleBindingKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("RoleBinding")
	return &api.Kind{
		Hub: gvk, HubListKind: "RoleBindingList",
		Resource: "rolebindings", Singular: "rolebinding",
		Namespaced: true, Prefix: "rolebindings",
		New: api.New[rbacv1.RoleBinding](), NewList: api.New[rbacv1.RoleBindingList](),
		Views: api.Serve(gvk),
	}
}
