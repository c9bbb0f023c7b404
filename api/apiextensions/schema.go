package apiextensions

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Structural is the structural form of a schema.
func Structural(s *extv1.JSONSchemaProps) (*structural.Structural, error) {
	in := &apiextensions.JSONSchemaProps{}
	if err := extv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(s, in, nil); err != nil {
		return nil, err
	}
	return structural.NewStructural(in)
}

// validateSchema checks the schema of a version and returns its structural
// form, nil if it has none. old may be nil; rules that its schema has too are
// not weighed again.
func validateSchema(s *extv1.JSONSchemaProps, old *extv1.CustomResourceDefinitionVersion, path *field.Path) (*structural.Structural, field.ErrorList) {
	var errs field.ErrorList
	switch s.Type {
	case "object":
	case "":
		errs = append(errs, field.Required(path.Child("type"), "must not be empty at the root"))
	default:
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be object at the root"))
	}
	if s.Nullable {
		errs = append(errs, field.Forbidden(path.Child("nullable"), "nullable cannot be true at the root"))
	}
	errs = append(errs, validateProps(s, path)...)
	if len(errs) > 0 {
		return nil, errs
	}
	st, err := Structural(s)
	if err != nil {
		return nil, append(errs, field.Invalid(path, "", err.Error()))
	}
	errs = append(errs, structural.ValidateStructuralWithOptions(path, st, structural.ValidationOptions{
		AllowNestedAdditionalProperties:                   true,
		AllowNestedXValidations:                           true,
		AllowValidationPropertiesWithAdditionalProperties: true,
	})...)
	if len(errs) > 0 {
		return st, errs
	}
	defaults, err := defaulting.ValidateDefaults(context.Background(), path, st, true, true)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to validate default value: %w", err)))
	}
	errs = append(errs, defaults...)
	return st, append(errs, validateRules(st, oldRules(old), path)...)
}

// validateProps checks what the structural form does not: constructs that the
// API has no use for, list types and patterns.
func validateProps(s *extv1.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	no := func(bad bool, name string) {
		if bad {
			errs = append(errs, field.Forbidden(path.Child(name), name+" is not supported"))
		}
	}
	no(s.ID != "", "id")
	no(s.Schema != "", "$schema")
	no(s.Ref != nil && *s.Ref != "", "$ref")
	no(s.AdditionalItems != nil, "additionalItems")
	no(len(s.PatternProperties) > 0, "patternProperties")
	no(len(s.Definitions) > 0, "definitions")
	no(len(s.Dependencies) > 0, "dependencies")
	if s.UniqueItems {
		errs = append(errs, field.Forbidden(path.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"))
	}
	if a := s.AdditionalProperties; a != nil {
		if len(s.Properties) > 0 && (a.Allows || a.Schema != nil) {
			errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive"))
		}
		if !a.Allows && a.Schema == nil {
			errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "additionalProperties cannot be set to false"))
		}
	}
	if s.Items != nil && len(s.Items.JSONSchemas) > 0 {
		errs = append(errs, field.Forbidden(path.Child("items"), "items must be a schema object and not an array"))
	}
	if s.Pattern != "" {
		if _, err := regexp.Compile(s.Pattern); err != nil {
			errs = append(errs, field.Invalid(path.Child("pattern"), s.Pattern, fmt.Sprintf("must be a valid regular expression, but isn't: %v", err)))
		}
	}
	errs = append(errs, validateTypes(s, path)...)
	return append(errs, validateNested(s, path)...)
}

func validateTypes(s *extv1.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Type != "" {
		known := []string{"array", "boolean", "integer", "number", "object", "string"}
		if s.Type == "null" {
			errs = append(errs, field.Forbidden(path.Child("type"), "type cannot be set to null, use nullable as an alternative"))
		} else if !slices.Contains(known, s.Type) {
			errs = append(errs, field.NotSupported(path.Child("type"), s.Type, known))
		}
	}
	if s.XPreserveUnknownFields != nil && !*s.XPreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"))
	}
	if s.XMapType != nil {
		if s.Type != "object" {
			errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be object if x-kubernetes-map-type is specified"))
		}
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
	if s.Type != "array" {
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be array if x-kubernetes-list-type is specified"))
	}
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

// validateSetItems demands that the elements of a set are compared whole.
func validateSetItems(item *extv1.JSONSchemaProps, path *field.Path) field.ErrorList {
	switch item.Type {
	case "object":
		if item.XMapType == nil || *item.XMapType != "atomic" {
			return field.ErrorList{field.Invalid(path.Child("x-kubernetes-map-type"), item.XMapType, "must be atomic as item of a list with x-kubernetes-list-type=set")}
		}
	case "array":
		if item.XListType != nil && *item.XListType != "atomic" {
			return field.ErrorList{field.Invalid(path.Child("x-kubernetes-list-type"), item.XListType, "must be atomic as item of a list with x-kubernetes-list-type=set")}
		}
	}
	return nil
}

func validateMapKeys(s *extv1.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	keys := path.Child("x-kubernetes-list-map-keys")
	if len(s.XListMapKeys) == 0 {
		errs = append(errs, field.Required(keys, "must not be empty if x-kubernetes-list-type is map"))
	}
	if s.Items == nil || s.Items.Schema == nil {
		return append(errs, field.Required(path.Child("items"), "must have a schema if x-kubernetes-list-type is map"))
	}
	item := s.Items.Schema
	if item.Type != "object" {
		errs = append(errs, field.Invalid(path.Child("items", "type"), item.Type, "must be object if parent array's x-kubernetes-list-type is map"))
	}
	if item.Nullable {
		errs = append(errs, field.Forbidden(path.Child("items", "nullable"), "cannot be nullable when x-kubernetes-list-type is map"))
	}
	seen := map[string]bool{}
	for i, k := range s.XListMapKeys {
		prop, ok := item.Properties[k]
		if !ok {
			errs = append(errs, field.Invalid(keys.Index(i), k, "entries must all be names of item properties"))
			continue
		}
		at := path.Child("items", "properties").Key(k)
		switch {
		case prop.Type == "object" || prop.Type == "array":
			errs = append(errs, field.Invalid(at.Child("type"), prop.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map"))
		case prop.Nullable:
			errs = append(errs, field.Forbidden(at.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"))
		case prop.Default == nil && !slices.Contains(item.Required, k):
			errs = append(errs, field.Required(at.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"))
		}
		if seen[k] {
			errs = append(errs, field.Duplicate(keys.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

// validateNested descends into every schema within a schema.
func validateNested(s *extv1.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Items != nil && s.Items.Schema != nil {
		errs = append(errs, validateProps(s.Items.Schema, path.Child("items"))...)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		errs = append(errs, validateProps(s.AdditionalProperties.Schema, path.Child("additionalProperties"))...)
	}
	if s.Not != nil {
		errs = append(errs, validateProps(s.Not, path.Child("not"))...)
	}
	for name, list := range map[string][]extv1.JSONSchemaProps{"allOf": s.AllOf, "anyOf": s.AnyOf, "oneOf": s.OneOf} {
		for i := range list {
			errs = append(errs, validateProps(&list[i], path.Child(name).Index(i))...)
		}
	}
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	for _, name := range names {
		p := s.Properties[name]
		errs = append(errs, validateProps(&p, path.Child("properties").Key(name))...)
	}
	return errs
}
