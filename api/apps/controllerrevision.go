package apps

import (
	"bytes"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

func controllerRevisionKind() *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("ControllerRevision")
	return &api.Kind{
		Hub: gvk, HubListKind: "ControllerRevisionList",
		Resource: "controllerrevisions", Singular: "controllerrevision",
		Namespaced: true, Prefix: "controllerrevisions",
		New: api.New[appsv1.ControllerRevision](), NewList: api.New[appsv1.ControllerRevisionList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Validate: api.Check(validateControllerRevision),
			ValidateUpdate: api.Check2(func(r, old *appsv1.ControllerRevision) field.ErrorList {
				return append(check.NonNegative(r.Revision, field.NewPath("revision")), check.Immutable(r.Data, old.Data, field.NewPath("data"))...)
			}),
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Controller", "Controller of the object"),
			printing.String("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(r *appsv1.ControllerRevision) []any {
			return []any{r.Name, controllerName(r), r.Revision, printing.Age(r.CreationTimestamp)}
		}),
	}
}

// controllerName is the owner as kubectl names an object: kind.group/name.
func controllerName(r *appsv1.ControllerRevision) string {
	owner := metav1.GetControllerOf(r)
	if owner == nil {
		return printing.None
	}
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return owner.Name
	}
	return strings.ToLower(schema.GroupKind{Group: gv.Group, Kind: owner.Kind}.String()) + "/" + owner.Name
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := check.NonNegative(r.Revision, field.NewPath("revision"))
	raw := bytes.TrimSpace(r.Data.Raw)
	switch path := field.NewPath("data"); {
	case len(raw) == 0 && r.Data.Object == nil || bytes.Equal(raw, []byte("null")):
		errs = append(errs, field.Required(path, "data is mandatory"))
	case r.Data.Object == nil && raw[0] != '{':
		errs = append(errs, field.Required(path, "data must be a valid JSON object"))
	}
	return errs
}
