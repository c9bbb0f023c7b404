package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/coxswain/cox/api"
)

func clusterRoleKind() *api.Kind {
	gvk := rbacv1.SchemeGroupVersion.WithKind("ClusterRole")
	return &api.Kind{
		Hub: gvk, HubListKind: "ClusterRoleList",
		Resource: "clusterroles", Singular: "clusterrole",
		Prefix: "clusterroles",
		New:    api.New[rbacv1.ClusterRole](), NewList: api.New[rbacv1.ClusterRoleList](),
		Views: api.Serve(gvk),
	}
}
