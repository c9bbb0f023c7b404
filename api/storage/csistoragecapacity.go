package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
)

func csiStorageCapacityKind() *api.Kind {
	gvk := storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity")
	return &api.Kind{
		Hub: gvk, HubListKind: "CSIStorageCapacityList",
		Resource: "csistoragecapacities", Singular: "csistoragecapacity",
		Namespaced: true, Prefix: "csistoragecapacities",
		New: api.New[storagev1.CSIStorageCapacity](), NewList: api.New[storagev1.CSIStorageCapacityList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Validate: api.Check(func(c *storagev1.CSIStorageCapacity) field.ErrorList { return validateCapacity(c, nil) }),
			ValidateUpdate: api.Check2(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
				errs := validateCapacity(c, old)
				errs = append(errs, check.Immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
				return append(errs, check.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
			}),
		},
	}
}

// validateCapacity checks the capacity; old is nil for a new object.
func validateCapacity(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	var oldTopology *metav1.LabelSelector
	if old != nil {
		oldTopology = old.NodeTopology
	}
	errs := check.LabelSelector(c.NodeTopology, oldTopology, field.NewPath("nodeTopology"))
	errs = append(errs, check.Each(field.NewPath("storageClassName"), c.StorageClassName, validation.IsDNS1123Subdomain(c.StorageClassName))...)
	if q := c.Capacity; q != nil && q.Sign() < 0 { // the largest volume's size is not looked at
		errs = append(errs, field.Invalid(field.NewPath("capacity"), q.String(), "must be greater than or equal to 0").WithOrigin("minimum"))
	}
	return errs
}
