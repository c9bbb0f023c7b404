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
			if strings.HasPrefix(name, "io.k8s.apimachinery.") {
				s.meta[name] = schema
			}
		}
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

// operations are the paths of the version in a document's form.
func (p published) operations(from *sources, doc string) (map[string]any, error) {
	t := clusterTemplate
	if p.n.row.Namespaced {
		t = namespacedTemplate
	}
	source, err := from.of(doc, t)
	if err != nil {
		return nil, err
	}
	short, _, _ := strings.Cut(t.group, ".")
	own := title(p.v.gvk.Group, p.v.gvk.Version)
	tag := strings.ToLower(own[:1]) + strings.TrimSuffix(own[1:], title("", p.v.gvk.Version)) + "_" + p.v.gvk.Version
	models := strings.TrimSuffix(p.v.modelName(), p.v.gvk.Kind)
	text := strings.NewReplacer(
		"io.k8s.api."+short+".v1."+t.kind+"List", models+p.n.row.HubListKind,
		"io.k8s.api."+short+".v1."+t.kind, p.v.modelName(),
		"/apis/"+t.group+"/v1", "/apis/"+p.v.av,
		"/"+t.resource, "/"+p.n.row.Resource,
		strings.ToUpper(short[:1])+short[1:]+"V1", own,
		short+"_v1", tag,
		`"group":"`+t.group+`"`, `"group":"`+p.v.gvk.Group+`"`,
		`"version":"v1"`, `"version":"`+p.v.gvk.Version+`"`,
		t.kind, p.v.gvk.Kind,
	).Replace(source)
	var paths map[string]any
	if err := json.Unmarshal([]byte(text), &paths); err != nil {
		return nil, err
	}
	for path, item := range paths {
		withoutForms(item)
		if !strings.HasSuffix(path, "/{name}") {
			continue
		}
		for name := range p.n.row.Subresources {
			if name == "status" { // a scale is no custom object, and its schema is another group's
				paths[path+"/status"] = subresource(item.(map[string]any))
			}
		}
	}
	return paths, nil
}

// withoutForms drops the formats that custom resources do not have.
func withoutForms(v any) {
	drop := func(form string) bool {
		return strings.HasPrefix(form, "application/vnd.kubernetes.protobuf") || form == "application/strategic-merge-patch+json" || strings.Contains(form, "cbor")
	}
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			if drop(k) {
				delete(v, k)
				continue
			}
			if list, ok := child.([]any); ok && (k == "consumes" || k == "produces") {
				var kept []any
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

// subresource is an object's path item as its status has it.
func subresource(item map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range item {
		op, isOp := v.(map[string]any)
		switch {
		case k == "delete":
		case !isOp:
			out[k] = v
		default:
			changed := map[string]any{}
			for name, value := range op {
				changed[name] = value
			}
			if id, ok := op["operationId"].(string); ok {
				changed["operationId"] = id + "Status"
			}
			if text, ok := op["description"].(string); ok {
				changed["description"] = strings.Replace(text, "the specified", "status of the specified", 1)
			}
			out[k] = changed
		}
	}
	return out
}
