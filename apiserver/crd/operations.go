package crd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/coxswain/cox/apiserver/openapi"
)

// A custom resource has the operations that every resource has, so theirs are
// made of those of two built-in kinds: one with a namespace and one without.
type template struct{ group, resource, kind string }

var (
	namespacedTemplate = template{"coordination.k8s.io", "leases", "Lease"}
	clusterTemplate    = template{"node.k8s.io", "runtimeclasses", "RuntimeClass"}
)

// sources keeps the paths of the templates, which are small, once they are
// read.
type sources struct {
	mu    sync.Mutex
	paths map[string]string // by document ("v2", "v3") and template
	meta  map[string]json.RawMessage
	scale map[string]json.RawMessage
	// shapes are the finished paths.
	shapes map[shape]string
}

// of returns the template's paths in a document's form, as JSON.
func (s *sources) of(doc string, t template) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := s.paths[doc+t.kind]; text != "" {
		return text, nil
	}
	path := doc
	if doc == "v3" {
		path = "v3/apis/" + t.group + "/v1"
	}
	if err := s.take(doc, path, t); err != nil {
		return "", err
	}
	return s.paths[doc+t.kind], nil
}

func (s *sources) take(doc, path string, t template) error {
	text, err := openapi.Document(path)
	if err != nil {
		return err
	}
	var parsed struct {
		Paths      map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return fmt.Errorf("OpenAPI document %s: %w", path, err)
	}
	for p := range parsed.Paths {
		if !strings.HasPrefix(p, "/apis/"+t.group+"/v1/") || strings.Contains(p, "/watch/") || !strings.Contains(p, "/"+t.resource) {
			delete(parsed.Paths, p)
		}
	}
	kept, err := json.Marshal(parsed.Paths)
	if err != nil {
		return err
	}
	if s.paths == nil {
		s.paths = map[string]string{}
	}
	s.paths[doc+t.kind] = string(kept)
	if doc == "v3" && s.meta == nil {
		s.meta = map[string]json.RawMessage{}
		for name, schema := range parsed.Components.Schemas {
			if strings.HasPrefix(name, "io.k8s.apimachinery.") && !unused[name] {
				s.meta[name] = schema
			}
		}
	}
	return nil
}

// unused are models of built-in groups that no custom resource has.
var unused = map[string]bool{
	"io.k8s.apimachinery.pkg.apis.meta.v1.APIResource":     true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList": true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime":       true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent":      true,
	"io.k8s.apimachinery.pkg.runtime.RawExtension":         true,
}

const scaleModel = "io.k8s.api.autoscaling.v1.Scale"

// addScale adds the models of a scale.
func (s *sources) addScale(to map[string]any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scale == nil {
		text, err := openapi.Document("v3/apis/apps/v1")
		if err != nil {
			return err
		}
		var parsed struct {
			Components struct {
				Schemas map[string]json.RawMessage `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(text, &parsed); err != nil {
			return fmt.Errorf("OpenAPI document of apps/v1: %w", err)
		}
		s.scale = map[string]json.RawMessage{}
		for name, schema := range parsed.Components.Schemas {
			if strings.HasPrefix(name, scaleModel) {
				s.scale[name] = schema
			}
		}
	}
	for name, schema := range s.scale {
		to[name] = schema
	}
	return nil
}

// schemas are the models that every v3 document has, in a map of the caller's
// own. The options among them name the document's group.
func (s *sources) schemas(group string) (map[string]any, error) {
	if _, err := s.of("v3", namespacedTemplate); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]any, len(s.meta))
	for name, schema := range s.meta {
		out[name] = json.RawMessage(bytes.ReplaceAll(schema, []byte(`"`+namespacedTemplate.group+`"`), []byte(`"`+group+`"`)))
	}
	return out, nil
}

// title is how operations are named after a group version:
// "StableExampleComV1".
func title(group, version string) string {
	var b strings.Builder
	for _, part := range append(strings.FieldsFunc(group, func(r rune) bool { return r == '.' || r == '-' }), version) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// shape is what the paths of custom resources differ in beside names.
type shape struct {
	doc           string
	template      template
	status, scale bool
}

// pathsOf are those of a custom resource of a shape, under the names of the
// template, as JSON.
func (s *sources) pathsOf(sh shape) (string, error) {
	source, err := s.of(sh.doc, sh.template)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := s.shapes[sh]; text != "" {
		return text, nil
	}
	var paths map[string]any
	if err := json.Unmarshal([]byte(source), &paths); err != nil {
		return "", err
	}
	prefix := map[string]string{"v2": "#/definitions/", "v3": "#/components/schemas/"}[sh.doc]
	revision := revisionParameter(paths)
	for path, item := range paths {
		item := item.(map[string]any)
		withoutForms(item)
		asCustom(item, strings.HasSuffix(path, "/{name}"), revision)
		if !strings.HasSuffix(path, "/{name}") {
			continue
		}
		if sh.status {
			paths[path+"/status"] = subresource(item, "status", "", "")
		}
		if sh.scale {
			paths[path+"/scale"] = subresource(item, "scale", prefix+sh.template.model(), prefix+scaleModel)
		}
	}
	text, err := json.Marshal(paths)
	if err != nil {
		return "", err
	}
	if s.shapes == nil {
		s.shapes = map[shape]string{}
	}
	s.shapes[sh] = string(text)
	return s.shapes[sh], nil
}

func (t template) short() string {
	short, _, _ := strings.Cut(t.group, ".")
	return short
}

// model is the name of the template's schema.
func (t template) model() string { return "io.k8s.api." + t.short() + ".v1." + t.kind }

// operations are the paths of the version in a document's form, as JSON.
func (p published) operations(from *sources, doc string) ([]byte, error) {
	t := clusterTemplate
	if p.n.row.Namespaced {
		t = namespacedTemplate
	}
	sub := p.v.Subresources
	source, err := from.pathsOf(shape{doc: doc, template: t, status: sub != nil && sub.Status != nil, scale: sub != nil && sub.Scale != nil})
	if err != nil {
		return nil, err
	}
	short := t.short()
	own := title(p.v.gvk.Group, p.v.gvk.Version)
	tag := strings.ToLower(own[:1]) + strings.TrimSuffix(own[1:], title("", p.v.gvk.Version)) + "_" + p.v.gvk.Version
	models := strings.TrimSuffix(p.v.modelName(), p.v.gvk.Kind)
	return []byte(strings.NewReplacer(
		t.model()+"List", models+p.n.row.HubListKind,
		t.model(), p.v.modelName(),
		"/apis/"+t.group+"/v1", "/apis/"+p.v.av,
		"/"+t.resource, "/"+p.n.row.Resource,
		strings.ToUpper(short[:1])+short[1:]+"V1", own,
		short+"_v1", tag,
		`"group":"`+t.group+`"`, `"group":"`+p.v.gvk.Group+`"`,
		`"version":"v1"`, `"version":"`+p.v.gvk.Version+`"`,
		"a "+t.kind, article(p.v.gvk.Kind)+" "+p.v.gvk.Kind,
		t.kind, p.v.gvk.Kind,
	).Replace(source)), nil
}

// article is "a" or "an".
func article(word string) string {
	if strings.ContainsAny(word[:1], "AEIOUaeiou") {
		return "an"
	}
	return "a"
}

// revisionParameter finds how lists name the parameter resourceVersion.
func revisionParameter(paths map[string]any) []any {
	for _, item := range paths {
		get, _ := item.(map[string]any)["get"].(map[string]any)
		list, _ := get["parameters"].([]any)
		for _, p := range list {
			p, _ := p.(map[string]any)
			ref, _ := p["$ref"].(string)
			if p["name"] == "resourceVersion" || strings.HasPrefix(ref, "#/parameters/resourceVersion-") {
				return []any{p}
			}
		}
	}
	return nil
}

// asCustom changes the operations of a built-in resource's path to those of a
// custom one's: an object is read at a revision, a list is only listed, and
// what is deleted of a list is said like what is listed.
func asCustom(item map[string]any, named bool, revision []any) {
	list, _ := item["get"].(map[string]any)
	if list == nil {
		return
	}
	if named {
		list["parameters"] = revision
	} else if text, ok := list["description"].(string); ok {
		list["description"] = strings.Replace(text, "list or watch", "list", 1)
	}
	if remove, ok := item["delete"].(map[string]any); ok && !named {
		remove["parameters"] = list["parameters"]
		delete(remove, "requestBody")
	}
	if patch, ok := item["patch"].(map[string]any); ok {
		if answers, ok := patch["responses"].(map[string]any); ok {
			delete(answers, "201")
		}
	}
}

// withoutForms drops the formats that custom resources do not have, and names
// those that stand for any.
func withoutForms(v any) {
	drop := func(form string) bool {
		return strings.HasPrefix(form, "application/vnd.kubernetes.protobuf") || form == "application/strategic-merge-patch+json" || strings.Contains(form, "cbor") || form == "application/json;stream=watch"
	}
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			if drop(k) {
				delete(v, k)
				continue
			}
			if k == "*/*" {
				v["application/json"], v["application/yaml"] = child, child
				delete(v, k)
				continue
			}
			if list, ok := child.([]any); ok && (k == "consumes" || k == "produces") {
				var kept []any
				if len(list) == 1 && list[0] == "*/*" {
					list = []any{"application/json", "application/yaml"}
				}
				for _, form := range list {
					if s, ok := form.(string); !ok || !drop(s) {
						kept = append(kept, form)
					}
				}
				v[k] = kept
				continue
			}
			withoutForms(child)
		}
	case []any:
		for _, child := range v {
			withoutForms(child)
		}
	}
}

// subresource is an object's path item as its subresource has it. Where the
// subresource is another kind, refs to the object's model become refs to its.
func subresource(item map[string]any, name, model, other string) map[string]any {
	out := map[string]any{}
	for k, v := range item {
		op, isOp := v.(map[string]any)
		switch {
		case k == "delete":
		case !isOp:
			out[k] = v
		default:
			changed := replaceRefs(op, model, other).(map[string]any)
			if id, ok := op["operationId"].(string); ok {
				changed["operationId"] = id + strings.ToUpper(name[:1]) + name[1:]
			}
			if text, ok := op["description"].(string); ok {
				changed["description"] = strings.Replace(text, "the specified", name+" of the specified", 1)
			}
			out[k] = changed
		}
	}
	return out
}

// replaceRefs copies a part of a document with other references; maps are new,
// all else is shared.
func replaceRefs(v any, from, to string) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, child := range v {
			if k == "$ref" && child == from {
				child = to
			}
			out[k] = replaceRefs(child, from, to)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, child := range v {
			out[i] = replaceRefs(child, from, to)
		}
		return out
	}
	return v
}
