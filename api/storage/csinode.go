package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/api"
)

func csiNodeKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("CSINode")
	return &api.Kind{
		Hub: gvk, HubListKind: "CSINodeList",
		Resource: "csinodes", Singular: "csinode",
		Prefix: "csinodes", ReturnDeleted: true,
		New: api.New[storagev1.CSINode](), NewList: api.New[storagev1.CSINodeList](),
		Views: api.Serve(gvk),
	}
}
