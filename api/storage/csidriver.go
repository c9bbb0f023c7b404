package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/api"
)

func csiDriverKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("CSIDriver")
	return &api.Kind{
		Hub: gvk, HubListKind: "CSIDriverList",
		Resource: "csidrivers", Singular: "csidriver",
		Prefix: "csidrivers", ReturnDeleted: true,
		New: api.New[storagev1.CSIDriver](), NewList: api.New[storagev1.CSIDriverList](),
		Views: api.Serve(gvk),
	}
}
