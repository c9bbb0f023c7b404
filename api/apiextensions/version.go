package apiextensions

import (
	"slices"
	"strings"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// validateVersion checks one version. An unchanged schema is not judged
// again: it may be older than a rule, and judging costs.
func validateVersion(v, old *extv1.CustomResourceDefinitionVersion, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	schemaPath := path.Child("schema", "openAPIV3Schema")
	var s *structural.Structural
	switch {
	case v.Schema == nil || v.Schema.OpenAPIV3Schema == nil:
		if old == nil || old.Schema != nil && old.Schema.OpenAPIV3Schema != nil {
			errs = append(errs, field.Required(schemaPath, "schemas are required"))
		}
	case old != nil && check.Equal(v.Schema, old.Schema):
		s, _ = Structural(v.Schema.OpenAPIV3Schema)
	default:
		var schemaErrs field.ErrorList
		s, schemaErrs = validateSchema(v.Schema.OpenAPIV3Schema, old, schemaPath)
		errs = append(errs, schemaErrs...)
	}
	if v.Subresources != nil {
		errs = append(errs, validateSubresources(v.Subresources, path.Child("subresources"))...)
	}
	for i := range v.AdditionalPrinterColumns {
		errs = append(errs, validateColumn(&v.AdditionalPrinterColumns[i], path.Child("additionalPrinterColumns").Index(i))...)
	}
	return append(errs, validateSelectable(v.SelectableFields, s, path.Child("selectableFields"))...)
}

func validateSubresources(s *extv1.CustomResourceSubresources, path *field.Path) field.ErrorList {
	if s.Scale == nil {
		return nil
	}
	var errs field.ErrorList
	path = path.Child("scale")
	under := func(v, name string, required bool, roots ...string) {
		p := path.Child(name)
		if v == "" {
			if required {
				errs = append(errs, field.Required(p, ""))
			}
			return
		}
		if strings.ContainsAny(v, "[]*") || !strings.HasPrefix(v, ".") || strings.Contains(v, "..") || strings.HasSuffix(v, ".") {
			errs = append(errs, field.Invalid(p, v, "is not a valid json path: must be a simple path of fields, such as .spec.replicas"))
			return
		}
		for _, r := range roots {
			if strings.HasPrefix(v, r+".") {
				return
			}
		}
		errs = append(errs, field.Invalid(p, v, "should be a json path under "+strings.Join(roots, " or ")))
	}
	under(s.Scale.SpecReplicasPath, "specReplicasPath", true, ".spec")
	under(s.Scale.StatusReplicasPath, "statusReplicasPath", true, ".status")
	if l := s.Scale.LabelSelectorPath; l != nil && *l != "" {
		under(*l, "labelSelectorPath", false, ".spec", ".status")
	}
	return errs
}

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

func validateColumn(c *extv1.CustomResourceColumnDefinition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if c.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must be one of "+strings.Join(columnTypes, ",")))
	} else if !slices.Contains(columnTypes, c.Type) {
		errs = append(errs, field.Invalid(path.Child("type"), c.Type, "must be one of "+strings.Join(columnTypes, ",")))
	}
	if c.Format != "" && !slices.Contains(columnFormats, c.Format) {
		errs = append(errs, field.Invalid(path.Child("format"), c.Format, "must be one of "+strings.Join(columnFormats, ",")))
	}
	if c.JSONPath == "" {
		return append(errs, field.Required(path.Child("jsonPath"), ""))
	}
	if _, err := ParseColumn(c); err != nil {
		errs = append(errs, field.Invalid(path.Child("jsonPath"), c.JSONPath, "is an invalid json path: "+err.Error()))
	}
	return errs
}

// mostSelectable is how many fields of a version can be selected by.
const mostSelectable = 8

func validateSelectable(list []extv1.SelectableField, s *structural.Structural, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > mostSelectable {
		errs = append(errs, field.TooMany(path, len(list), mostSelectable))
	}
	seen := sets.New[string]()
	for i, f := range list {
		p := path.Index(i).Child("jsonPath")
		if f.JSONPath == "" {
			errs = append(errs, field.Required(p, ""))
			continue
		}
		if s == nil {
			continue
		}
		at, found, err := structuralcel.ValidFieldPath(f.JSONPath, s, structuralcel.WithFieldPathAllowArrayNotation(false))
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(p, f.JSONPath, "is an invalid path: "+err.Error()))
			continue
		case found.Type != "string" && found.Type != "boolean" && found.Type != "integer":
			errs = append(errs, field.Invalid(p, f.JSONPath, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		}
		name := strings.TrimPrefix(at.String(), ".")
		switch {
		case seen.Has(name):
			errs = append(errs, field.Duplicate(p, f.JSONPath))
		case name == "metadata.name" || name == "metadata.namespace" || strings.HasPrefix(name, "metadata"):
			errs = append(errs, field.Invalid(p, f.JSONPath, "must not point to fields in metadata"))
		}
		seen.Insert(name)
	}
	return errs
}
