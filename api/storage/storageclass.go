package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/api"
)

func storageClassKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("StorageClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "StorageClassList",
		Resource: "storageclasses", Singular: "storageclass",
		ShortNames: []string{"sc"},
		Prefix:     "storageclasses", ReturnDeleted: true,
		New: api.New[storagev1.StorageClass](), NewList: api.New[storagev1.StorageClassList](),
		Views: api.Serve(gvk),
	}
}
