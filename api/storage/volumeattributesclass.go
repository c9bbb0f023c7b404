package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/api"
)

func volumeAttributesClassKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "VolumeAttributesClassList",
		Resource: "volumeattributesclasses", Singular: "volumeattributesclass",
		ShortNames: []string{"vac"},
		Prefix:     "volumeattributesclasses", ReturnDeleted: true,
		New: api.New[storagev1.VolumeAttributesClass](), NewList: api.New[storagev1.VolumeAttributesClassList](),
		Views: api.Serve(gvk),
	}
}
