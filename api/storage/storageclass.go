package storage

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

// The annotations that mark the class of claims that name none.
const (
	defaultClass       = "storageclass.kubernetes.io/is-default-class"
	legacyDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
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
		Strategy: api.Strategy{
			Default: api.On(func(c *storagev1.StorageClass) {
				api.DefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
				api.DefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
			}),
			Validate:       api.Check(validateStorageClass),
			ValidateUpdate: api.Check2(validateStorageClassUpdate),
			Warnings: func(o, _ runtime.Object) []string {
				var out []string
				for i, t := range o.(*storagev1.StorageClass).AllowedTopologies {
					for k, e := range t.MatchLabelExpressions {
						if text := podspec.DeprecatedLabel(e.Key); text != "" {
							out = append(out, fmt.Sprintf("allowedTopologies[%d].matchLabelExpressions[%d].key: %s", i, k, text))
						}
					}
				}
				return out
			},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Provisioner", storagev1.StorageClass{}.SwaggerDoc()["provisioner"]),
			printing.String("ReclaimPolicy", storagev1.StorageClass{}.SwaggerDoc()["reclaimPolicy"]),
			printing.String("VolumeBindingMode", storagev1.StorageClass{}.SwaggerDoc()["volumeBindingMode"]),
			printing.String("AllowVolumeExpansion", storagev1.StorageClass{}.SwaggerDoc()["allowVolumeExpansion"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(c *storagev1.StorageClass) []any {
			name := c.Name
			if c.Annotations[defaultClass] == "true" || c.Annotations[legacyDefaultClass] == "true" {
				name += " (default)"
			}
			reclaim, mode := string(corev1.PersistentVolumeReclaimDelete), string(storagev1.VolumeBindingImmediate)
			if c.ReclaimPolicy != nil {
				reclaim = string(*c.ReclaimPolicy)
			}
			if c.VolumeBindingMode != nil {
				mode = string(*c.VolumeBindingMode)
			}
			return []any{name, c.Provisioner, reclaim, mode, isTrue(c.AllowVolumeExpansion), printing.Age(c.CreationTimestamp)}
		}),
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateQualified(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, true, field.NewPath("parameters"))...)
	if c.ReclaimPolicy != nil && *c.ReclaimPolicy != "" {
		errs = append(errs, check.OneOf(*c.ReclaimPolicy, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	mode := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(mode, ""))
	} else {
		errs = append(errs, check.OneOf(*c.VolumeBindingMode, mode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, podspec.ValidateTopologySelectorTerms(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateStorageClass(c)
	errs = append(errs, check.Immutable(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
	errs = append(errs, check.Immutable(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, check.Immutable(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	return append(errs, check.Immutable(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}
