// Package resource holds the rows of the API group of dynamic resource
// allocation (KEP-4381): classes, claims and templates of claims and slices of
// devices go in, defaulted, prepared, judged and printed ones come out.
package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind {
	return []*api.Kind{
		deviceClassKind(),
		resourceClaimKind(),
		resourceClaimTemplateKind(),
		resourceSliceKind(),
	}
}

func deviceClassKind() *api.Kind {
	gvk := resourcev1.SchemeGroupVersion.WithKind("DeviceClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "DeviceClassList",
		Resource: "deviceclasses", Singular: "deviceclass",
		Prefix: "deviceclasses", ReturnDeleted: true,
		New: api.New[resourcev1.DeviceClass](), NewList: api.New[resourcev1.DeviceClassList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: func(o runtime.Object) { o.(*resourcev1.DeviceClass).Generation = 1 },
			PrepareUpdate: func(o, prev runtime.Object) {
				c, old := o.(*resourcev1.DeviceClass), prev.(*resourcev1.DeviceClass)
				api.CountGeneration(c, old, c.Spec, old.Spec)
			},
			Validate:       api.Check(validateDeviceClass),
			ValidateUpdate: api.Check2(validateDeviceClassUpdate),
			Warnings:       func(o, _ runtime.Object) []string { return classWarnings(o.(*resourcev1.DeviceClass)) },
		},
		Columns: nameAndAge(),
		Cells: api.Cells(func(c *resourcev1.DeviceClass) []any {
			return []any{c.Name, printing.Age(c.CreationTimestamp)}
		}),
	}
}

func resourceClaimTemplateKind() *api.Kind {
	gvk := resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate")
	return &api.Kind{
		Hub: gvk, HubListKind: "ResourceClaimTemplateList",
		Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate", Namespaced: true,
		Prefix: "resourceclaimtemplates", ReturnDeleted: true,
		New: api.New[resourcev1.ResourceClaimTemplate](), NewList: api.New[resourcev1.ResourceClaimTemplateList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default:        api.On(func(t *resourcev1.ResourceClaimTemplate) { defaultDevices(&t.Spec.Spec.Devices) }),
			Validate:       api.Check(validateTemplate),
			ValidateUpdate: api.Check2(validateTemplateUpdate),
			Warnings: func(o, _ runtime.Object) []string {
				return claimWarnings(&o.(*resourcev1.ResourceClaimTemplate).Spec.Spec.Devices, field.NewPath("spec", "spec", "devices"))
			},
		},
		Columns: nameAndAge(),
		Cells: api.Cells(func(t *resourcev1.ResourceClaimTemplate) []any {
			return []any{t.Name, printing.Age(t.CreationTimestamp)}
		}),
	}
}

func nameAndAge() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{printing.Name(), printing.AgeColumn()}
}

func classWarnings(c *resourcev1.DeviceClass) (warnings []string) {
	for i, cfg := range c.Spec.Config {
		if cfg.Opaque != nil {
			warnings = driverWarnings(warnings, cfg.Opaque.Driver, field.NewPath("spec", "config").Index(i).Child("opaque", "driver"))
		}
	}
	return warnings
}

func claimWarnings(d *resourcev1.DeviceClaim, path *field.Path) (warnings []string) {
	for i, cfg := range d.Config {
		if cfg.Opaque != nil {
			warnings = driverWarnings(warnings, cfg.Opaque.Driver, path.Child("config").Index(i).Child("opaque", "driver"))
		}
	}
	return warnings
}
