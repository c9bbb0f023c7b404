package storage

import (
	"fmt"
	"maps"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
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
			ForbidUnconditionalUpdate: true,
			Validate:                  api.Check(func(c *storagev1.CSIStorageCapacity) field.ErrorList { return validateCapacity(c, nil) }),
			ValidateUpdate: api.Check2(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
				errs := validateCapacity(c, old)
				errs = append(errs, check.Immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
				return append(errs, check.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
			}),
			Warnings: func(o, _ runtime.Object) []string {
				return topologyWarnings(o.(*storagev1.CSIStorageCapacity).NodeTopology)
			},
		},
	}
}

// topologyWarnings tells of outdated labels of nodes.
func topologyWarnings(s *metav1.LabelSelector) []string {
	if s == nil {
		return nil
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		if text := podspec.DeprecatedLabel(key); text != "" {
			out = append(out, fmt.Sprintf("nodeTopology.matchLabels.%s: %s", key, text))
		}
	}
	for i, e := range s.MatchExpressions {
		if text := podspec.DeprecatedLabel(e.Key); text != "" {
			out = append(out, fmt.Sprintf("nodeTopology.matchExpressions[%d].key: %s is %s", i, e.Key, text))
		}
	}
	return out
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
