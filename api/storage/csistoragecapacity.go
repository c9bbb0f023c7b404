package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/api"
)

func csiStorageCapacityKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity")
	return &api.Kind{
		Hub: gvk, HubListKind: "CSIStorageCapacityList",
		Resource: "csistoragecapacities", Singular: "csistoragecapacity",
		Namespaced: true, Prefix: "csistoragecapacities",
		New: api.New[storagev1.CSIStorageCapacity](), NewList: api.New[storagev1.CSIStorageCapacityList](),
		Views: api.Serve(gvk),
	}
}
