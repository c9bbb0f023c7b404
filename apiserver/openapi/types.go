package openapi

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/spec3"
)

// TypeConverter reads, from the published schemas of a group version, by what
// the fields of its kinds are owned and merged.
func TypeConverter(gv schema.GroupVersion) (managedfields.TypeConverter, error) {
	path := "v3/apis/" + gv.String()
	text, err := Document(path)
	if err != nil {
		return nil, err
	}
	var doc spec3.OpenAPI
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("OpenAPI document %s: %w", path, err)
	}
	if doc.Components == nil {
		return nil, fmt.Errorf("OpenAPI document %s has no schemas", path)
	}
	return managedfields.NewTypeConverter(doc.Components.Schemas, false)
}
