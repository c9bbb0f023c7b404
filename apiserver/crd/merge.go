package crd

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	metaModel  = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	ownerModel = "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference"
)

// modelName names a version's schema as the published documents do:
// "com.example.stable.v1.CronTab" for CronTab of stable.example.com/v1.
func (v *version) modelName() string {
	parts := strings.Split(v.gvk.Group, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(append(parts, v.gvk.Version, v.gvk.Kind), ".")
}

// mergeSchema is by what fields of the objects are owned and merged.
func (d *definition) mergeSchema() (managedfields.TypeConverter, error) {
	models := metaModels()
	for _, v := range d.versions {
		if err := v.compile(); err != nil {
			return nil, err
		}
		s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
		switch {
		case v.schema != nil:
			s = v.schema.ToKubeOpenAPI()
		default:
			s.AddExtension("x-kubernetes-preserve-unknown-fields", true)
		}
		eachSchema(s, func(s *spec.Schema) {
			if embeds, _ := s.Extensions["x-kubernetes-embedded-resource"].(bool); embeds {
				object(s)
			}
		})
		object(s)
		s.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{
			"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind,
		}})
		models[v.modelName()] = s
	}
	types, err := managedfields.NewTypeConverter(models, d.crd.Spec.PreserveUnknownFields)
	if err != nil {
		return nil, fmt.Errorf("schema by which %s is merged: %w", d.crd.Name, err)
	}
	return types, nil
}

// object gives a schema the fields that every object has.
func object(s *spec.Schema) {
	if s.Properties == nil {
		s.Properties = map[string]spec.Schema{}
	}
	str := *spec.StringProperty()
	s.Properties["apiVersion"], s.Properties["kind"] = str, str
	s.Properties["metadata"] = *reference(metaModel)
}

func reference(model string) *spec.Schema {
	return spec.RefSchema("#/definitions/" + model)
}

// metaModels are the schemas of object metadata as far as merging is
// concerned: what is a set, what a list of keyed items.
func metaModels() map[string]*spec.Schema {
	str, num := *spec.StringProperty(), *spec.Int64Property()
	list := func(item spec.Schema, kind string, keys ...any) spec.Schema {
		s := *spec.ArrayProperty(&item)
		s.AddExtension("x-kubernetes-list-type", kind)
		if len(keys) > 0 {
			s.AddExtension("x-kubernetes-list-map-keys", keys)
		}
		return s
	}
	anything := spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
	anything.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	owner := &spec.Schema{SchemaProps: spec.SchemaProps{
		Type: spec.StringOrArray{"object"},
		Properties: map[string]spec.Schema{
			"apiVersion": str, "kind": str, "name": str, "uid": str,
			"blockOwnerDeletion": *spec.BooleanProperty(), "controller": *spec.BooleanProperty(),
		},
	}}
	owner.AddExtension("x-kubernetes-map-type", "atomic")
	return map[string]*spec.Schema{
		ownerModel: owner,
		metaModel: {SchemaProps: spec.SchemaProps{
			Type: spec.StringOrArray{"object"},
			Properties: map[string]spec.Schema{
				"annotations": *spec.MapProperty(&str), "labels": *spec.MapProperty(&str),
				"creationTimestamp": str, "deletionTimestamp": str, "deletionGracePeriodSeconds": num,
				"finalizers": list(str, "set"), "generateName": str, "generation": num, "name": str, "namespace": str,
				"managedFields":   list(anything, "atomic"),
				"ownerReferences": list(*reference(ownerModel), "map", "uid"),
				"resourceVersion": str, "selfLink": str, "uid": str,
			},
		}},
	}
}
