package apiextensions

import (
	"fmt"
	"slices"
	"strings"

	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// parts are what a version has, or all of them share.
type parts struct {
	schema       *hub.CustomResourceValidation
	subresources *hub.CustomResourceSubresources
	columns      []hub.CustomResourceColumnDefinition
	selectable   []hub.SelectableField
	status       bool // objects have a status of their own in some version that the schema is for
}

// validateVersions checks the versions and what each has of its own.
func validateVersions(s, old *hub.CustomResourceDefinitionSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	storage, names, unique := 0, sets.New[string](), true
	for i := range s.Versions {
		v, at := &s.Versions[i], path.Child("versions").Index(i)
		unique = unique && !names.Has(v.Name)
		names.Insert(v.Name)
		if v.Storage {
			storage++
		}
		errs = append(errs, validateDescribed(s, old, v, at)...)
		if msgs := validation.IsDNS1035Label(v.Name); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(msgs, ",")))
		}
		if v.DeprecationWarning != nil {
			errs = append(errs, validateDeprecation(v, at.Child("deprecationWarning"))...)
		}
		errs = append(errs, validateVersion(s, old, v, at)...)
	}
	if !unique {
		errs = append(errs, field.Invalid(path.Child("versions"), s.Versions, "must contain unique version names"))
	}
	if storage != 1 {
		errs = append(errs, field.Invalid(path.Child("versions"), s.Versions, "must have exactly one version marked as storage version"))
	}
	if s.Version != "" {
		if msgs := validation.IsDNS1035Label(s.Version); len(msgs) > 0 {
			errs = append(errs, field.Invalid(path.Child("version"), s.Version, strings.Join(msgs, ",")))
		}
	}
	return errs
}

// validateDescribed demands a schema.
func validateDescribed(s, old *hub.CustomResourceDefinitionSpec, v *hub.CustomResourceDefinitionVersion, path *field.Path) field.ErrorList {
	if !described(s.Validation) && !described(v.Schema) && (old == nil || allDescribed(old)) {
		return field.ErrorList{field.Required(path.Child("schema", "openAPIV3Schema"), "")}
	}
	return nil
}

// validateVersion checks what a version has of its own.
func validateVersion(s, old *hub.CustomResourceDefinitionSpec, v *hub.CustomResourceDefinitionVersion, path *field.Path) field.ErrorList {
	p := parts{v.Schema, v.Subresources, v.AdditionalPrinterColumns, v.SelectableFields, hasStatus(s, v)}
	return p.validate(old, v.Name, path, "schema", "may only be set when `version.schema.openAPIV3Schema` is not included")
}

// validateShared checks what all versions share.
func validateShared(s, old *hub.CustomResourceDefinitionSpec, path *field.Path) field.ErrorList {
	status := slices.ContainsFunc(s.Versions, func(v hub.CustomResourceDefinitionVersion) bool { return hasStatus(s, &v) })
	p := parts{s.Validation, s.Subresources, s.AdditionalPrinterColumns, s.SelectableFields, status}
	return p.validate(old, s.Version, path, "validation", "may only be set when validations.schema is included")
}

// hadStatus is hasStatus of the version of that name before.
func hadStatus(old *hub.CustomResourceDefinitionSpec, version string) bool {
	return slices.ContainsFunc(old.Versions, func(v hub.CustomResourceDefinitionVersion) bool {
		return v.Name == version && hasStatus(old, &v)
	})
}

// hasStatus says whether objects have a status of their own in a version.
func hasStatus(s *hub.CustomResourceDefinitionSpec, v *hub.CustomResourceDefinitionVersion) bool {
	return s.Subresources != nil && s.Subresources.Status != nil || v.Subresources != nil && v.Subresources.Status != nil
}

func described(v *hub.CustomResourceValidation) bool { return v != nil && v.OpenAPIV3Schema != nil }

func allDescribed(s *hub.CustomResourceDefinitionSpec) bool {
	for i := range s.Versions {
		if !described(s.Validation) && !described(s.Versions[i].Schema) {
			return false
		}
	}
	return true
}

// schemaOf is the schema of a version; nil if it has none.
func schemaOf(s *hub.CustomResourceDefinitionSpec, version string) *hub.JSONSchemaProps {
	if s == nil {
		return nil
	}
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Name == version && described(v.Schema) {
			return v.Schema.OpenAPIV3Schema
		}
	}
	if described(s.Validation) {
		return s.Validation.OpenAPIV3Schema
	}
	return nil
}

// validate checks the parts. A schema that some version had before is not
// judged again: it may be older than a rule, and judging costs.
func (p *parts) validate(old *hub.CustomResourceDefinitionSpec, version string, path *field.Path, schemaField, unselectable string) field.ErrorList {
	var errs field.ErrorList
	var s *structural.Structural
	if described(p.schema) {
		was, at := schemaOf(old, version), path.Child(schemaField, "openAPIV3Schema")
		same := was != nil && check.Equal(p.schema.OpenAPIV3Schema, was)
		if p.status && !(same && hadStatus(old, version)) {
			errs = validateStatusRoot(p.schema.OpenAPIV3Schema, at)
		}
		if same {
			s, _ = structural.NewStructural(was)
		} else {
			s, errs = validateSchema(p.schema.OpenAPIV3Schema, was, errs, at)
		}
	}
	if p.subresources != nil {
		errs = append(errs, validateSubresources(p.subresources, path.Child("subresources"))...)
	}
	for i := range p.columns {
		errs = append(errs, validateColumn(&p.columns[i], path.Child("additionalPrinterColumns").Index(i))...)
	}
	if len(p.selectable) > 0 {
		if !described(p.schema) {
			return append(errs, field.Invalid(path.Child("selectableFields"), "", unselectable))
		}
		errs = append(errs, validateSelectable(p.selectable, s, path.Child("selectableFields"))...)
	}
	return errs
}

func validateDeprecation(v *hub.CustomResourceDefinitionVersion, path *field.Path) field.ErrorList {
	text := *v.DeprecationWarning
	switch {
	case !v.Deprecated:
		return field.ErrorList{field.Invalid(path, text, "can only be set for deprecated versions")}
	case text == "":
		return field.ErrorList{field.Invalid(path, text, "must not be an empty string")}
	case len(text) > 256:
		return field.ErrorList{field.Invalid(path, text, "must be <= 256 characters long")}
	}
	for i, r := range text {
		if r < 0x20 || r == 0x7f {
			return field.ErrorList{field.Invalid(path, text, fmt.Sprintf("must only contain printable UTF-8 characters; non-printable character found at index %d", i))}
		}
	}
	return nil
}

func validateSubresources(s *hub.CustomResourceSubresources, path *field.Path) field.ErrorList {
	if s.Scale == nil {
		return nil
	}
	var errs field.ErrorList
	path = path.Child("scale")
	under := func(v, name, where string, roots ...string) {
		switch p := path.Child(name); {
		case v == "":
			errs = append(errs, field.Required(p, ""))
		case !strings.HasPrefix(v, "."):
			errs = append(errs, field.Invalid(p, v, "must be a simple json path starting with ."))
		case !slices.ContainsFunc(roots, func(r string) bool { return strings.HasPrefix(v, r) }):
			errs = append(errs, field.Invalid(p, v, "should be a json path under "+where))
		}
	}
	under(s.Scale.SpecReplicasPath, "specReplicasPath", ".spec", ".spec.")
	under(s.Scale.StatusReplicasPath, "statusReplicasPath", ".status", ".status.")
	if l := s.Scale.LabelSelectorPath; l != nil && *l != "" {
		under(*l, "labelSelectorPath", "either .spec or .status", ".spec.", ".status.")
	}
	return errs
}

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

func validateColumn(c *hub.CustomResourceColumnDefinition, path *field.Path) field.ErrorList {
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
	switch {
	case c.JSONPath == "":
		errs = append(errs, field.Required(path.Child("JSONPath"), ""))
	case !strings.HasPrefix(c.JSONPath, "."):
		errs = append(errs, field.Invalid(path.Child("JSONPath"), c.JSONPath, "must be a simple json path starting with ."))
	}
	return errs
}

// mostSelectable is how many fields of a version can be selected by.
const mostSelectable = 8

// validateSelectable checks the fields that can be selected by. s is nil where
// the schema is bad itself: then only their number can be told.
func validateSelectable(list []hub.SelectableField, s *structural.Structural, path *field.Path) field.ErrorList {
	var errs field.ErrorList
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
		case strings.HasPrefix(name, "metadata"):
			errs = append(errs, field.Invalid(p, f.JSONPath, "must not point to fields in metadata"))
		}
		seen.Insert(name)
	}
	if len(seen) > mostSelectable {
		errs = append(errs, field.TooMany(path, len(seen), mostSelectable))
	}
	return errs
}

// Approval reads the annotation of a definition in a protected group: whether
// it was approved, and the reason and message of the condition that says so.
func Approval(annotation string) (ok bool, reason, message string) {
	switch {
	case annotation == "":
		return false, "MissingAnnotation", fmt.Sprintf("protected groups must have approval annotation %q, see https://github.com/kubernetes/enhancements/pull/1111", extv1.KubeAPIApprovedAnnotation)
	case strings.HasPrefix(annotation, "unapproved"):
		return false, "UnapprovedAnnotation", fmt.Sprintf("not approved: %q", annotation)
	case isURL(annotation):
		return true, "ApprovedAnnotation", "approved in " + annotation
	}
	return false, "InvalidAnnotation", fmt.Sprintf("protected groups must have approval annotation %q with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111", extv1.KubeAPIApprovedAnnotation)
}
