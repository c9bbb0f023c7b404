// Package storage holds the rows of the API group of storage classes, CSI drivers and volume attachments:
// objects of the group go in, defaulted, prepared, judged and printed ones
// come out.
package storage

import "github.com/coxswain/cox/api"

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		storageClassKind(),
		csiDriverKind(),
		csiNodeKind(),
		volumeAttachmentKind(),
		csiStorageCapacityKind(),
		volumeAttributesClassKind(),
	}
}
