package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/coxswain/cox/api"
)

func clusterRoleBindingKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding")
	return &api.Kind{
		Hub: gvk, HubListKind: "ClusterRoleBindingList",
		Resource: "clusterrolebindings", Singular: "clusterrolebinding",
		Prefix: "clusterrolebindings",
		New:    api.New[rbacv1.ClusterRoleBinding](), NewList: api.New[rbacv1.ClusterRoleBindingList](),
		Views: api.Serve(gvk),
	}
}
