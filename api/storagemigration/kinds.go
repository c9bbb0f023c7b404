// Package storagemigration holds the row of the API group of storage version
// migrations (KEP-4192): objects of the group go in, defaulted, prepared,
// judged and printed ones come out.
package storagemigration

import (
	"strconv"
	"strings"

	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

type migration = storagemigrationv1beta1.StorageVersionMigration

// Kind returns the group's row, a new one with every call.
func Kind() *api.Kind {
	gvk := storagemigrationv1beta1.SchemeGroupVersion.WithKind("StorageVersionMigration")
	return &api.Kind{
		Hub: gvk, HubListKind: "StorageVersionMigrationList",
		Resource: "storageversionmigrations", Singular: "storageversionmigration",
		Prefix: "storageversionmigrations",
		New:    api.New[migration](), NewList: api.New[storagemigrationv1beta1.StorageVersionMigrationList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: api.On(func(m *migration) {
				m.Status = storagemigrationv1beta1.StorageVersionMigrationStatus{}
			}),
			PrepareUpdate:  api.On2(func(m, old *migration) { old.Status.DeepCopyInto(&m.Status) }),
			Validate:       api.Check(validate),
			ValidateUpdate: api.Check2(validateUpdate),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate:  api.On2(func(m, old *migration) { old.Spec.DeepCopyInto(&m.Spec) }),
				ValidateUpdate: api.Check2(validateStatus),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Resource", "Fully qualified resource to migrate."),
			printing.String("Status", "Status of the migration."),
		},
		Cells: api.Cells(func(m *migration) []any {
			resource := m.Spec.Resource.Resource
			if m.Spec.Resource.Group != "" {
				resource += "." + m.Spec.Resource.Group
			}
			return []any{m.Name, resource, state(m)}
		}),
	}
}

// state is the condition that is true; the ends count before the way there.
func state(m *migration) string {
	for _, t := range []storagemigrationv1beta1.MigrationConditionType{
		storagemigrationv1beta1.MigrationSucceeded, storagemigrationv1beta1.MigrationFailed, storagemigrationv1beta1.MigrationRunning,
	} {
		if meta.IsStatusConditionTrue(m.Status.Conditions, string(t)) {
			return string(t)
		}
	}
	return ""
}

func validate(m *migration) field.ErrorList {
	path := field.NewPath("spec", "resource")
	var errs field.ErrorList
	if m.Spec.Resource.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
	} else {
		errs = append(errs, check.Each(path.Child("resource"), m.Spec.Resource.Resource, validation.IsDNS1035Label(m.Spec.Resource.Resource))...)
	}
	if m.Spec.Resource.Group != "" {
		errs = append(errs, check.Subdomain(m.Spec.Resource.Group, path.Child("group"))...)
	}
	return errs
}

// spec shows as upstream's internal type, whose fields have no JSON names.
type spec struct{ Resource metav1.GroupResource }

func validateUpdate(m, old *migration) field.ErrorList {
	return append(validate(m), check.Immutable(spec{m.Spec.Resource}, spec{old.Spec.Resource}, field.NewPath("spec"))...)
}

func validateStatus(m, old *migration) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if rv := m.Status.ResourceVersion; rv != "" {
		if _, err := strconv.ParseUint(rv, 10, 64); err != nil || strings.HasPrefix(rv, "+") {
			errs = append(errs, field.Invalid(path.Child("resourceVersion"), rv, "resource version is not well formed: "+rv))
		}
	}
	if old.Status.ResourceVersion != "" {
		errs = append(errs, check.Immutable(m.Status.ResourceVersion, old.Status.ResourceVersion, path.Child("resourceVersion"))...)
	}
	conditions := path.Child("conditions")
	errs = append(errs, metavalidation.ValidateConditions(m.Status.Conditions, conditions)...)
	is := func(m *migration, t storagemigrationv1beta1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
	}
	succeeded, failed := is(m, storagemigrationv1beta1.MigrationSucceeded), is(m, storagemigrationv1beta1.MigrationFailed)
	if succeeded && failed {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Both success and failed conditions cannot be true at the same time"))
	}
	if is(old, storagemigrationv1beta1.MigrationSucceeded) && !succeeded {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Success condition cannot be set to false once it is true"))
	}
	if is(old, storagemigrationv1beta1.MigrationFailed) && !failed {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Failed condition cannot be set to false once it is true"))
	}
	return errs
}
