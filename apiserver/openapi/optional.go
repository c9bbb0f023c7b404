package openapi

import (
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Optional publishes the documents of built-in resources that are not served by
// default, and of their group versions no others. It is safe for concurrent use.
type Optional []schema.GroupVersionResource

// of says that a path below /openapi/v3 or a path of the API belongs to one of
// the resources, or to its group or version.
func (o Optional) of(path string) bool {
	for _, gvr := range o {
		version := "apis/" + gvr.GroupVersion().String()
		if path == "apis/"+gvr.Group || path == version {
			return true
		}
		if rest, ok := strings.CutPrefix(path, version+"/"); ok {
			rest = strings.TrimPrefix(strings.TrimPrefix(rest, "watch/"), "namespaces/{namespace}/")
			if resource, _, _ := strings.Cut(rest, "/"); resource == gvr.Resource {
				return true
			}
		}
	}
	return false
}

// Documents lists them by path, each with its hash.
func (o Optional) Documents() map[string]string {
	out := map[string]string{}
	for _, d := range optionalIndex {
		path, ok := strings.CutPrefix(d.path, "v3/")
		if !ok || !o.of(path) {
			continue
		}
		out[path] = d.hash
		if text, all, err := o.v3(path); err == nil && !all {
			out[path] = fmt.Sprintf("%X", sha512.Sum512(text))
		}
	}
	return out
}

// V3 is the document of a path that Documents lists, as JSON.
func (o Optional) V3(path string) ([]byte, error) {
	text, _, err := o.v3(path)
	return text, err
}

// v3 is the document without the paths of what is not served; all: there are
// none of these.
func (o Optional) v3(path string) (text []byte, all bool, err error) {
	if text, err = Document("v3/" + path); err != nil {
		return nil, false, err
	}
	var doc map[string]json.RawMessage
	var paths map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, false, fmt.Errorf("OpenAPI document %s: %w", path, err)
	}
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return nil, false, fmt.Errorf("paths of the OpenAPI document %s: %w", path, err)
	}
	many := len(paths)
	maps.DeleteFunc(paths, func(p string, _ json.RawMessage) bool { return !o.of(strings.Trim(p, "/")) })
	if len(paths) == many {
		return text, true, nil
	}
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return nil, false, err
	}
	text, err = json.Marshal(doc)
	return text, false, err
}

// V2Hash is "" if nothing is published.
func (o Optional) V2Hash() string {
	for _, d := range optionalIndex {
		if d.path == "v2" && len(o) > 0 {
			return d.hash
		}
	}
	return ""
}

// V2 is what the v2 document gets.
func (o Optional) V2(taken func(name string) bool) (paths, definitions map[string]json.RawMessage) {
	paths, definitions = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for _, d := range optionalIndex {
		if d.path != "v2" {
			continue
		}
		text, err := read(d, ".json.gz")
		var doc struct{ Paths, Definitions map[string]json.RawMessage }
		if err != nil || json.Unmarshal(text, &doc) != nil {
			panic("the embedded OpenAPI documents are damaged") // the compiler put them in
		}
		for path, item := range doc.Paths {
			if o.of(strings.Trim(path, "/")) && !taken(path) {
				paths[path] = item
			}
		}
		for name, item := range doc.Definitions {
			if !taken(name) {
				definitions[name] = item
			}
		}
	}
	return paths, definitions
}
