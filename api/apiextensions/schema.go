package apiextensions

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Structural is the structural form of a schema.
func Structural(s *extv1.JSONSchemaProps) (*structural.Structural, error) {
	in := &hub.JSONSchemaProps{}
	if err := extv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(s, in, nil); err != nil {
		return nil, err
	}
	return structural.NewStructural(in)
}

// validateSchema checks a schema and returns its structural form, nil if it
// has none. old, which may be nil, is what the version had before: rules that
// it has too are not weighed again, and what it made use of stays allowed.
//
// Clients see: what is wrong at the root; what keeps the schema from being
// structural or, if it is, wrong defaults; what is wrong in each schema; and
// of the rules of those schemas with nothing wrong in or below them, whatever
// does not compile or costs too much. With a wrong default or a schema that is
// not structural no rule is compiled. errs is what was found so far, and goes
// first.
func validateSchema(s, old *hub.JSONSchemaProps, errs field.ErrorList, path *field.Path) (*structural.Structural, field.ErrorList) {
	if s.Nullable {
		errs = append(errs, field.Forbidden(path.Child("nullable"), "nullable cannot be true at the root"))
	}
	st, bad := structural.NewStructural(s)
	form := validateForm(st, old, path)
	w := &walker{}
	if bad == nil && len(form) == 0 {
		w.rules = newRules(st, oldRules(old))
	}
	errs = append(errs, form...)
	w.walk(s, rootSpot(st, w.rules != nil, path))
	errs = append(errs, w.errs...)
	if w.rules != nil {
		errs = append(errs, w.rules.verdict(path)...)
	}
	if bad != nil && len(errs) == 0 {
		errs = append(errs, field.Invalid(path, "", bad.Error()))
	}
	return st, errs
}

// validateForm checks that a schema is structural and, if so, its defaults.
func validateForm(st *structural.Structural, old *hub.JSONSchemaProps, path *field.Path) field.ErrorList {
	if st == nil {
		return nil
	}
	errs := structural.ValidateStructuralWithOptions(path, st, structural.ValidationOptions{
		AllowNestedAdditionalProperties:                   old != nil && within(old, hasNestedAdditional),
		AllowNestedXValidations:                           old != nil && within(old, hasNestedRules),
		AllowValidationPropertiesWithAdditionalProperties: true,
	})
	if len(errs) > 0 {
		return errs
	}
	errs, err := defaulting.ValidateDefaults(context.Background(), path, st, true, true)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to validate default value: %w", err)))
	}
	return errs
}

// validateStatusRoot checks the root of a schema of objects that have a status
// subresource.
func validateStatusRoot(s *hub.JSONSchemaProps, path *field.Path) field.ErrorList {
	if s.Type != "object" && s.Type != "" {
		return field.ErrorList{field.Invalid(path.Child("type"), s.Type, `only "object" is allowed as the type at the root of the schema if the status subresource is enabled`)}
	}
	allowed := []string{
		"Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum",
		"MaxLength", "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items",
		"Properties", "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
	}
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() && !slices.Contains(allowed, v.Type().Field(i).Name) {
			return field.ErrorList{field.Invalid(path, *s, fmt.Sprintf("only %v fields are allowed at the root of the schema if the status subresource is enabled", allowed))}
		}
	}
	return nil
}

// within says whether anything in a schema is so.
func within(s *hub.JSONSchemaProps, is func(*hub.JSONSchemaProps) bool) bool {
	if is(s) {
		return true
	}
	for _, child := range children(s, field.NewPath("x")) {
		if within(child.schema, is) {
			return true
		}
	}
	return false
}

// nested are the alternatives in a schema.
func nested(s *hub.JSONSchemaProps) []*hub.JSONSchemaProps {
	var out []*hub.JSONSchemaProps
	for _, list := range [][]hub.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			out = append(out, &list[i])
		}
	}
	if s.Not != nil {
		out = append(out, s.Not)
	}
	return out
}

func hasNestedAdditional(s *hub.JSONSchemaProps) bool {
	return slices.ContainsFunc(nested(s), func(n *hub.JSONSchemaProps) bool {
		return within(n, func(x *hub.JSONSchemaProps) bool { return x.AdditionalProperties != nil })
	})
}

func hasNestedRules(s *hub.JSONSchemaProps) bool {
	return slices.ContainsFunc(nested(s), func(n *hub.JSONSchemaProps) bool {
		return within(n, func(x *hub.JSONSchemaProps) bool { return len(x.XValidations) > 0 })
	})
}

// child is a schema within another.
type child struct {
	schema *hub.JSONSchemaProps
	path   *field.Path
	in     string // the field it is in
	name   string // of a property
}

// children are the schemas directly within a schema, in an order that is the
// same every time.
func children(s *hub.JSONSchemaProps, path *field.Path) []child {
	var out []child
	for _, of := range []struct {
		name string
		list []hub.JSONSchemaProps
	}{{"allOf", s.AllOf}, {"anyOf", s.AnyOf}, {"oneOf", s.OneOf}} {
		for i := range of.list {
			out = append(out, child{schema: &of.list[i], path: path.Child(of.name).Index(i), in: of.name})
		}
	}
	if s.Not != nil {
		out = append(out, child{schema: s.Not, path: path.Child("not"), in: "not"})
	}
	if s.Items != nil && s.Items.Schema != nil {
		out = append(out, child{schema: s.Items.Schema, path: path.Child("items"), in: "items"})
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		out = append(out, child{schema: s.AdditionalProperties.Schema, path: path.Child("additionalProperties"), in: "additionalProperties"})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		out = append(out, child{schema: &p, path: path.Child("properties").Key(name), in: "properties", name: name})
	}
	return out
}

func validateTypes(s *hub.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Type != "" {
		known := []string{"array", "boolean", "integer", "number", "object", "string"}
		if !slices.Contains(known, s.Type) {
			errs = append(errs, field.NotSupported(path.Child("type"), s.Type, known))
		}
		if s.Type == "null" {
			errs = append(errs, field.Forbidden(path.Child("type"), "type cannot be set to null, use nullable as an alternative"))
		}
	}
	if s.XPreserveUnknownFields != nil && !*s.XPreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"))
	}
	if s.XMapType != nil {
		errs = append(errs, demandType(s, "object", "x-kubernetes-map-type", path)...)
		if *s.XMapType != "atomic" && *s.XMapType != "granular" {
			errs = append(errs, field.NotSupported(path.Child("x-kubernetes-map-type"), *s.XMapType, []string{"atomic", "granular"}))
		}
	}
	if s.XListType == nil {
		if len(s.XListMapKeys) > 0 {
			errs = append(errs, field.Required(path.Child("x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty"))
		}
		return errs
	}
	errs = append(errs, demandType(s, "array", "x-kubernetes-list-type", path)...)
	listType := path.Child("x-kubernetes-list-type")
	switch *s.XListType {
	case "atomic", "set", "map":
	default:
		errs = append(errs, field.NotSupported(listType, *s.XListType, []string{"atomic", "set", "map"}))
	}
	if *s.XListType != "map" {
		if len(s.XListMapKeys) > 0 {
			errs = append(errs, field.Invalid(listType, *s.XListType, "must be map if x-kubernetes-list-map-keys is non-empty"))
		}
		if *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
			errs = append(errs, validateSetItems(s.Items.Schema, path.Child("items"))...)
		}
		return errs
	}
	return append(errs, validateMapKeys(s, path)...)
}

// demandType demands the type that a field is for.
func demandType(s *hub.JSONSchemaProps, want, extension string, path *field.Path) field.ErrorList {
	why := "must be " + want + " if " + extension + " is specified"
	switch s.Type {
	case want:
		return nil
	case "":
		return field.ErrorList{field.Required(path.Child("type"), why)}
	}
	return field.ErrorList{field.Invalid(path.Child("type"), s.Type, why)}
}

// validateSetItems demands that the elements of a set are compared whole.
func validateSetItems(item *hub.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	const text = "must be atomic as item of a list with x-kubernetes-list-type=set"
	if item.Nullable {
		errs = append(errs, field.Forbidden(path.Child("nullable"), "cannot be nullable when x-kubernetes-list-type is set"))
	}
	switch item.Type {
	case "object":
		if item.XMapType == nil || *item.XMapType != "atomic" {
			errs = append(errs, field.Invalid(path.Child("x-kubernetes-map-type"), nil, text))
		}
	case "array":
		if item.XListType != nil && *item.XListType != "atomic" {
			errs = append(errs, field.Invalid(path.Child("x-kubernetes-list-type"), *item.XListType, text))
		}
	}
	return errs
}

func validateMapKeys(s *hub.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	keys := path.Child("x-kubernetes-list-map-keys")
	if len(s.XListMapKeys) == 0 {
		errs = append(errs, field.Required(keys, "must not be empty if x-kubernetes-list-type is map"))
	}
	if s.Items == nil || s.Items.Schema == nil {
		return append(errs, field.Required(path.Child("items"), "must have a schema if x-kubernetes-list-type is map"))
	}
	item := s.Items.Schema
	if item.Nullable {
		errs = append(errs, field.Forbidden(path.Child("items", "nullable"), "cannot be nullable when x-kubernetes-list-type is map"))
	}
	if item.Type != "object" {
		return append(errs, field.Invalid(path.Child("items", "type"), item.Type, "must be object if parent array's x-kubernetes-list-type is map"))
	}
	seen := map[string]bool{}
	for _, k := range s.XListMapKeys {
		prop, ok := item.Properties[k]
		at := path.Child("items", "properties").Key(k)
		switch {
		case !ok:
			errs = append(errs, field.Invalid(keys, s.XListMapKeys, "entries must all be names of item properties"))
		case prop.Type == "object" || prop.Type == "array":
			errs = append(errs, field.Invalid(at.Child("type"), item.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map"))
		case prop.Nullable:
			errs = append(errs, field.Forbidden(at.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"))
		case prop.Default == nil && !slices.Contains(item.Required, k):
			errs = append(errs, field.Required(at.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"))
		}
		if seen[k] {
			errs = append(errs, field.Invalid(keys, s.XListMapKeys, "must not contain duplicate entries"))
		}
		seen[k] = true
	}
	return errs
}
