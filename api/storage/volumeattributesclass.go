package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
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
		Strategy: api.Strategy{
			Validate: api.Check(validateAttributesClass),
			ValidateUpdate: api.Check2(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
				var errs field.ErrorList
				if c.DriverName != old.DriverName {
					errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
				}
				if !check.Equal(c.Parameters, old.Parameters) {
					errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
				}
				return append(errs, validateAttributesClass(c)...)
			}),
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(c *storagev1.VolumeAttributesClass) []any {
			return []any{c.Name, c.DriverName, printing.Age(c.CreationTimestamp)}
		}),
	}
}

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := validateQualified(c.DriverName, field.NewPath("driverName"))
	return append(errs, validateParameters(c.Parameters, false, field.NewPath("parameters"))...)
}
