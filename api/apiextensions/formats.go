package apiextensions

import (
	"fmt"
	"maps"
	"slices"

	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// knownFormat says whether a format means something for values of a type; a
// schema without a type has those of strings.
func knownFormat(kind, format string) bool {
	switch kind {
	case "integer":
		return format == "int32" || format == "int64"
	case "number":
		return format == "float" || format == "double"
	case "", "string":
		switch format {
		case "bsonobjectid", "uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac",
			"uuid", "uuid3", "uuid4", "uuid5", "isbn", "isbn10", "isbn13", "creditcard", "ssn", "hexcolor", "rgbcolor",
			"byte", "password", "date", "duration", "datetime", "date-time", "k8s-short-name", "k8s-long-name":
			return true
		}
	}
	return false
}

// warnings tells of formats that the definition did not name before and that
// no value is held against; old is nil on create.
func warnings(o, prev runtime.Object) []string {
	found := unknownFormats(o.(*extv1.CustomResourceDefinition))
	if old, ok := prev.(*extv1.CustomResourceDefinition); ok && old != nil && len(found) > 0 {
		found = found.Difference(unknownFormats(old))
	}
	out := make([]string, 0, len(found))
	for _, format := range slices.Sorted(maps.Keys(found)) {
		out = append(out, fmt.Sprintf("unrecognized format %q", format))
	}
	return out
}

func unknownFormats(d *extv1.CustomResourceDefinition) sets.Set[string] {
	found := sets.New[string]()
	in, err := toHub(d)
	if err != nil {
		return found // validation says so
	}
	if described(in.Spec.Validation) {
		collectFormats(in.Spec.Validation.OpenAPIV3Schema, found)
	}
	for i := range in.Spec.Versions {
		if v := in.Spec.Versions[i].Schema; described(v) {
			collectFormats(v.OpenAPIV3Schema, found)
		}
	}
	return found
}

func collectFormats(s *hub.JSONSchemaProps, found sets.Set[string]) {
	if s.Format != "" && !knownFormat(s.Type, s.Format) {
		found.Insert(s.Format)
	}
	for _, c := range children(s, field.NewPath("x")) {
		collectFormats(c.schema, found)
	}
}
