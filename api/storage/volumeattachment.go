package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/coxswain/cox/api"
)

var volumeAttachmentParts = api.SpecStatus(func(o *storagev1.VolumeAttachment) (*storagev1.VolumeAttachmentSpec, *storagev1.VolumeAttachmentStatus) {
	return &o.Spec, &o.Status
})

func volumeAttachmentKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("VolumeAttachment")
	return &api.Kind{
		Hub: gvk, HubListKind: "VolumeAttachmentList",
		Resource: "volumeattachments", Singular: "volumeattachment",
		Prefix: "volumeattachments", ReturnDeleted: true,
		New: api.New[storagev1.VolumeAttachment](), NewList: api.New[storagev1.VolumeAttachmentList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: volumeAttachmentParts.PrepareCreate, PrepareUpdate: volumeAttachmentParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: volumeAttachmentParts.PrepareStatus}},
		},
	}
}
