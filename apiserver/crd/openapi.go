package crd

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/coxswain/cox/apiserver/openapi"
)

// documents publishes the schemas of what is served. They are made when they
// are asked for, one document per group version, and kept until something
// changes. It is safe for concurrent use.
type documents struct {
	m    *Manager
	from sources

	mu     sync.Mutex
	hashes map[string]string // by "apis/group/version"; nil: to be made anew
	made   map[string][]byte
	v2     *v2Parts
}

type v2Parts struct {
	hash               string
	paths, definitions map[string]json.RawMessage
}

// mostMade is how many documents are kept.
const mostMade = 32

func newDocuments(m *Manager) *documents { return &documents{m: m} }

func (d *documents) changed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hashes, d.made, d.v2 = nil, nil, nil
}

// OpenAPI serves the OpenAPI documents of built-in and custom kinds.
func (m *Manager) OpenAPI() http.Handler { return openapi.HandlerWith(m.docs) }

// published is a version that is served, with its definition.
type published struct {
	d *definition
	v *version
	n *serving
}

func (d *documents) published() map[string][]published {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	out := map[string][]published{}
	for _, s := range d.m.served {
		for _, v := range s.versions {
			if v.Served {
				out["apis/"+v.av] = append(out["apis/"+v.av], published{s.definition, v, s})
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b published) int { return strings.Compare(a.d.crd.Name, b.d.crd.Name) })
	}
	return out
}

// Documents lists the group versions with a hash over their definitions'
// states, which costs less than one over the documents.
func (d *documents) Documents() map[string]string {
	d.mu.Lock()
	known := d.hashes
	d.mu.Unlock()
	if known != nil {
		return known
	}
	out := map[string]string{}
	for path, list := range d.published() {
		h := sha256.New()
		for _, p := range list {
			fmt.Fprintln(h, p.d.crd.Name, p.d.crd.UID, p.d.crd.Generation, p.n.row.Resource)
		}
		out[path] = fmt.Sprintf("%X", h.Sum(nil))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hashes = out
	return out
}

// V3 makes a group version's document.
func (d *documents) V3(path string) ([]byte, error) {
	d.mu.Lock()
	text := d.made[path]
	d.mu.Unlock()
	if text != nil {
		return text, nil
	}
	list := d.published()[path]
	if len(list) == 0 {
		return nil, fmt.Errorf("nothing is served below %s", path)
	}
	schemas, err := d.from.schemas(list[0].d.group)
	if err != nil {
		return nil, err
	}
	paths := map[string]any{}
	for _, p := range list {
		if err := p.v.compile(); err != nil {
			return nil, err
		}
		for name, s := range p.models("#/components/schemas/", false) {
			schemas[name] = s
		}
		ops, err := p.operations(&d.from, "v3")
		if err != nil {
			return nil, err
		}
		if p.v.Subresources != nil && p.v.Subresources.Scale != nil {
			if err := d.from.addScale(schemas); err != nil {
				return nil, err
			}
		}
		for path, op := range ops {
			paths[path] = op
		}
	}
	text, err = json.Marshal(map[string]any{
		"openapi": "3.0.0", "info": map[string]string{"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
		"paths": paths, "components": map[string]any{"schemas": schemas},
	})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.made == nil || len(d.made) >= mostMade {
		d.made = map[string][]byte{}
	}
	d.made[path] = text
	return text, nil
}

// V2 makes what the v2 document gets.
func (d *documents) V2() (string, map[string]json.RawMessage, map[string]json.RawMessage, error) {
	d.mu.Lock()
	have := d.v2
	d.mu.Unlock()
	if have == nil {
		var err error
		if have, err = d.makeV2(); err != nil {
			return "", nil, nil, err
		}
		d.mu.Lock()
		d.v2 = have
		d.mu.Unlock()
	}
	return have.hash, have.paths, have.definitions, nil
}

func (d *documents) makeV2() (*v2Parts, error) {
	out := &v2Parts{paths: map[string]json.RawMessage{}, definitions: map[string]json.RawMessage{}}
	h := sha256.New()
	for _, list := range d.published() {
		for _, p := range list {
			if err := p.v.compile(); err != nil {
				return nil, err
			}
			for name, s := range p.models("#/definitions/", true) {
				text, err := json.Marshal(s)
				if err != nil {
					return nil, err
				}
				out.definitions[name] = text
			}
			ops, err := p.operations(&d.from, "v2")
			if err != nil {
				return nil, err
			}
			for path, op := range ops {
				if out.paths[path], err = json.Marshal(op); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(out.definitions) == 0 {
		return out, nil
	}
	hashes := d.Documents()
	names := make([]string, 0, len(hashes))
	for name := range hashes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintln(h, name, hashes[name])
	}
	out.hash = fmt.Sprintf("%X", h.Sum(nil))
	return out, nil
}

const (
	docAPIVersion      = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
	docKind            = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
	docMeta            = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
	docEmbeddedVersion = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
	docEmbeddedKind    = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
	docListMeta        = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
)

func described(s *spec.Schema, text string) spec.Schema {
	s.Description = text
	return *s
}

// models are the published schemas of the object and of its list.
func (p published) models(prefix string, old bool) map[string]*spec.Schema {
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
	keeps := p.v.schema == nil || p.v.schema.XPreserveUnknownFields || p.d.crd.Spec.PreserveUnknownFields
	if p.v.schema != nil && !(old && keeps) { // v2 cannot say that more is allowed, so it says nothing
		s = p.v.schema.ToKubeOpenAPI()
	}
	ref := func(name, text string) spec.Schema {
		r := *spec.RefSchema(prefix + name)
		if old {
			r.Description = text
			return r
		}
		return spec.Schema{SchemaProps: spec.SchemaProps{Description: text, AllOf: []spec.Schema{r}}}
	}
	eachSchema(s, func(s *spec.Schema) {
		if embeds, _ := s.Extensions["x-kubernetes-embedded-resource"].(bool); embeds {
			typed(s, docEmbeddedVersion, docEmbeddedKind, ref(metaModel, docMeta))
			s.Required = append(s.Required, "kind", "apiVersion")
		}
		if old {
			simplify(s)
		} else {
			alternativesOf(s)
		}
	})
	if !(old && keeps) {
		typed(s, docAPIVersion, docKind, ref(metaModel, docMeta))
	}
	if keeps && !old {
		s.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	}
	named := func(s *spec.Schema, kind string) {
		s.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": p.v.gvk.Group, "version": p.v.gvk.Version, "kind": kind}})
		if len(p.v.SelectableFields) == 0 {
			return
		}
		var selectable []any
		for _, f := range p.v.SelectableFields {
			selectable = append(selectable, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
		}
		s.AddExtension("x-kubernetes-selectable-fields", selectable)
	}
	named(s, p.v.gvk.Kind)
	name, listKind := p.v.modelName(), p.n.row.HubListKind
	list := &spec.Schema{SchemaProps: spec.SchemaProps{
		Type: spec.StringOrArray{"object"}, Description: listKind + " is a list of " + p.v.gvk.Kind, Required: []string{"items"},
		Properties: map[string]spec.Schema{
			"apiVersion": described(spec.StringProperty(), docAPIVersion),
			"kind":       described(spec.StringProperty(), docKind),
			"metadata":   ref("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", docListMeta),
			"items": described(spec.ArrayProperty(spec.RefSchema(prefix+name)),
				"List of "+p.n.row.Resource+". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"),
		},
	}}
	named(list, listKind)
	return map[string]*spec.Schema{name: s, strings.TrimSuffix(name, p.v.gvk.Kind) + listKind: list}
}

// typed gives a schema the fields that every object has.
func typed(s *spec.Schema, aboutVersion, aboutKind string, meta spec.Schema) {
	if s.Properties == nil {
		s.Properties = map[string]spec.Schema{}
	}
	s.Properties["apiVersion"] = described(spec.StringProperty(), aboutVersion)
	s.Properties["kind"] = described(spec.StringProperty(), aboutKind)
	s.Properties["metadata"] = meta
}

// alternativesOf says in v3 what a value that may be a number or a text is.
func alternativesOf(s *spec.Schema) {
	if either, _ := s.Extensions["x-kubernetes-int-or-string"].(bool); either && len(s.AnyOf) == 0 && len(s.AllOf) == 0 {
		s.AnyOf = []spec.Schema{
			{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"integer"}}},
			{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"string"}}},
		}
	}
}

// simplify drops what v2 does not have; clients would take what is left of a
// nullable value's type for a promise.
func simplify(s *spec.Schema) {
	if s.Nullable {
		s.Type, s.Properties, s.Items = nil, nil, nil
	}
	s.Nullable, s.Default = false, nil
	s.AllOf, s.AnyOf, s.OneOf, s.Not = nil, nil, nil, nil
	if keep, _ := s.Extensions["x-kubernetes-preserve-unknown-fields"].(bool); keep {
		s.Type, s.Properties, s.Items, s.Required = nil, nil, nil, nil
	}
	if either, _ := s.Extensions["x-kubernetes-int-or-string"].(bool); either {
		s.Type = nil
	}
}
