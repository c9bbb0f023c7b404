package crd

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
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
}

// mostMade is how many documents are kept.
const mostMade = 32

func newDocuments(m *Manager) *documents { return &documents{m: m} }

func (d *documents) changed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hashes, d.made = nil, nil
}

// OpenAPI serves the OpenAPI documents of built-in and custom kinds.
func (m *Manager) OpenAPI() http.Handler { return openapi.HandlerWith(m.docs) }

// OpenAPIWith is OpenAPI with what others publish.
func (m *Manager) OpenAPIWith(elsewhere ...openapi.Elsewhere) http.Handler {
	var all openapi.Extra = m.docs
	for _, e := range elsewhere {
		all = openapi.Join(all, e)
	}
	return openapi.HandlerWith(all)
}

// Document is the OpenAPI document of a group version of custom or built-in
// kinds, as JSON ("v3/apis/example.com/v1").
func (m *Manager) Document(path string) ([]byte, error) {
	if name, ok := strings.CutPrefix(path, "v3/"); ok && m.docs.Documents()[name] != "" {
		return m.docs.V3(name)
	}
	return openapi.Document(path)
}

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
	var paths objects
	for _, p := range list {
		models, err := p.models("#/components/schemas/", false)
		if err != nil {
			return nil, err
		}
		for name, s := range models {
			schemas[name] = s
		}
		ops, err := p.operations(&d.from, "v3")
		if err != nil {
			return nil, err
		}
		paths.add(ops)
		if p.v.Subresources != nil && p.v.Subresources.Scale != nil {
			if err := d.from.addScale(schemas); err != nil {
				return nil, err
			}
		}
	}
	text, err = json.Marshal(map[string]any{
		"openapi": "3.0.0", "info": map[string]string{"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
		"paths": json.RawMessage(paths.text()), "components": map[string]any{"schemas": schemas},
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

// V2Hash is one over the definitions' states.
func (d *documents) V2Hash() string {
	hashes := d.Documents()
	if len(hashes) == 0 {
		return ""
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(hashes)) {
		fmt.Fprintln(h, name, hashes[name])
	}
	return fmt.Sprintf("%X", h.Sum(nil))
}

// V2 makes what the v2 document gets. It is not kept: with a thousand
// definitions it is larger than all else that they cost.
func (d *documents) V2() ([]byte, []byte, error) {
	var paths, definitions objects
	for _, list := range d.published() {
		for _, p := range list {
			models, err := p.models("#/definitions/", true)
			if err != nil {
				return nil, nil, err
			}
			text, err := json.Marshal(models)
			if err != nil {
				return nil, nil, err
			}
			definitions.add(text)
			ops, err := p.operations(&d.from, "v2")
			if err != nil {
				return nil, nil, err
			}
			paths.add(ops)
		}
	}
	return paths.text(), definitions.text(), nil
}

// objects joins JSON objects that have no field in common.
type objects struct{ b []byte }

func (o *objects) add(text []byte) {
	if text = text[1 : len(text)-1]; len(text) == 0 {
		return
	}
	if o.b = append(o.b, ','); len(o.b) == 1 {
		o.b[0] = '{'
	}
	o.b = append(o.b, text...)
}

func (o *objects) text() []byte {
	if len(o.b) == 0 {
		return []byte("{}")
	}
	return append(o.b, '}')
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

// models are the published schemas of the object and of its list. The schema
// is read anew if no object has needed it yet, and not kept then.
func (p published) models(prefix string, old bool) (map[string]*spec.Schema, error) {
	form, err := p.v.structural()
	if err != nil {
		return nil, err
	}
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
	keeps := form == nil || form.XPreserveUnknownFields || p.d.crd.Spec.PreserveUnknownFields
	if form != nil && !(old && keeps) { // v2 cannot say that more is allowed, so it says nothing
		s = form.ToKubeOpenAPI()
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
	return map[string]*spec.Schema{name: s, strings.TrimSuffix(name, p.v.gvk.Kind) + listKind: list}, nil
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
