// Package crd serves custom resources: definitions are read through a door,
// and each becomes a row of the API server like those of built-in kinds, made
// at run time. It also looks after the definitions themselves: their names,
// their conditions, and the objects that go with them.
package crd

import (
	"fmt"
	"sync"
	"sync/atomic"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"

	"github.com/coxswain/cox/api/apiextensions"
	"github.com/coxswain/cox/apiserver/crd/tree"
)

// definition is a CustomResourceDefinition at work. Its schemas are compiled
// when they are first needed. It is safe for concurrent use.
type definition struct {
	crd      *extv1.CustomResourceDefinition // shared, read only
	group    string
	kind     string
	storage  *version
	versions map[string]*version // by "group/version"
	convert  *converter          // nil: versions differ in their name only
	// terminating definitions take no new objects.
	terminating bool
}

// version is one version of a definition.
type version struct {
	*extv1.CustomResourceDefinitionVersion
	gvk       schema.GroupVersionKind
	av        string
	preserves bool // spec.preserveUnknownFields of old definitions

	once     sync.Once
	compiled atomic.Bool // once is over
	err      error
	// schema is nil where the version has none.
	schema    *structural.Structural
	tree      *tree.Tree
	openapi   *spec.Schema
	validator *validate.SchemaValidator
	rules     func() *structuralcel.Validator
	ruled     func() []string // ruledFields of the schema
}

func newDefinition(d *extv1.CustomResourceDefinition, webhook *converter) (*definition, error) {
	out := &definition{
		crd: d, group: d.Spec.Group, kind: d.Spec.Names.Kind, convert: webhook,
		versions: make(map[string]*version, len(d.Spec.Versions)), terminating: d.DeletionTimestamp != nil,
	}
	for i := range d.Spec.Versions {
		s := &d.Spec.Versions[i]
		gvk := schema.GroupVersionKind{Group: d.Spec.Group, Version: s.Name, Kind: d.Spec.Names.Kind}
		v := &version{
			CustomResourceDefinitionVersion: s, gvk: gvk, av: gvk.GroupVersion().String(),
			preserves: d.Spec.PreserveUnknownFields,
		}
		out.versions[v.av] = v
		if s.Storage {
			out.storage = v
		}
	}
	if out.storage == nil {
		return nil, fmt.Errorf("the definition %s has no storage version", d.Name)
	}
	return out, nil
}

// of is the version that an object is in; the storage version for objects
// that name none that is known.
func (d *definition) of(u *unstructured.Unstructured) *version {
	if v := d.versions[u.GetAPIVersion()]; v != nil {
		return v
	}
	return d.storage
}

// compile reads the schema. Definitions that the server has accepted compile;
// the error of one that does not is returned at each use.
func (v *version) compile() error {
	v.once.Do(func() {
		defer v.compiled.Store(true)
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			return
		}
		s, err := apiextensions.Structural(v.Schema.OpenAPIV3Schema)
		if err != nil {
			v.err = fmt.Errorf("schema of %s: %w", v.gvk, err)
			return
		}
		v.schema, v.tree = s, tree.Compile(s, v.preserves)
		v.openapi = s.ToKubeOpenAPI()
		eachSchema(v.openapi, alternatives)
		v.validator = validate.NewSchemaValidator(v.openapi, nil, "", strfmt.Default)
		v.ruled = sync.OnceValue(func() []string { return ruledFields(s) })
		v.rules = sync.OnceValue(func() *structuralcel.Validator {
			return structuralcel.NewValidator(s, true, celconfig.PerCallLimit)
		})
	})
	return v.err
}

// structural is the form of the schema: what compile keeps if it has run, else
// one for the caller only.
func (v *version) structural() (*structural.Structural, error) {
	if v.compiled.Load() {
		return v.schema, v.err
	}
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	s, err := apiextensions.Structural(v.Schema.OpenAPIV3Schema)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", v.gvk, err)
	}
	return s, nil
}

// alternatives lets the validator know what x-kubernetes-int-or-string means.
func alternatives(s *spec.Schema) {
	if is, _ := s.Extensions["x-kubernetes-int-or-string"].(bool); is && len(s.Type) == 0 {
		s.Type = spec.StringOrArray{"integer", "string"}
	}
}

// eachSchema calls f for a schema and all within it.
func eachSchema(s *spec.Schema, f func(*spec.Schema)) {
	if s == nil {
		return
	}
	f(s)
	if s.Items != nil {
		eachSchema(s.Items.Schema, f)
	}
	if s.AdditionalProperties != nil {
		eachSchema(s.AdditionalProperties.Schema, f)
	}
	eachSchema(s.Not, f)
	for _, list := range [][]spec.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			eachSchema(&list[i], f)
		}
	}
	for name, p := range s.Properties {
		eachSchema(&p, f)
		s.Properties[name] = p
	}
}

// normalize drops what the schema does not know and sets its defaults. lax
// drops metadata that cannot be read instead of refusing the object. unknown
// lists the fields dropped.
func (v *version) normalize(u *unstructured.Unstructured, lax bool) (unknown []error, err error) {
	if err := v.compile(); err != nil {
		return nil, err
	}
	if v.schema == nil || v.tree.Settle(u.Object) {
		return nil, nil
	}
	bad, paths := objectmeta.CoerceWithOptions(nil, u.Object, v.schema, true, objectmeta.CoerceOptions{
		DropInvalidFields: lax, ReturnUnknownFieldPaths: !lax,
	})
	if bad != nil {
		return nil, bad
	}
	if !v.preserves {
		paths = append(paths, pruning.PruneWithOptions(u.Object, v.schema, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: !lax})...)
	}
	for _, p := range paths {
		unknown = append(unknown, fmt.Errorf("unknown field %q", p))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, v.schema)
	defaulting.Default(u.Object, v.schema)
	return unknown, nil
}
