package openapi

import (
	"encoding/json"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Optional publishes the documents of built-in group versions that are not
// served by default. It is safe for concurrent use.
type Optional []schema.GroupVersion

// of says that a path below /openapi/v3 or a path of the API belongs to one of
// the group versions, or to its group.
func (o Optional) of(path string) bool {
	for _, gv := range o {
		if path == "apis/"+gv.Group || path == "apis/"+gv.String() || strings.HasPrefix(path, "apis/"+gv.Group+"/"+gv.Version+"/") {
			return true
		}
	}
	return false
}

// Documents lists them by path, each with its hash.
func (o Optional) Documents() map[string]string {
	out := map[string]string{}
	for _, d := range optionalIndex {
		if path, ok := strings.CutPrefix(d.path, "v3/"); ok && o.of(path) {
			out[path] = d.hash
		}
	}
	return out
}

// V3 is the document of a path that Documents lists, as JSON.
func (o Optional) V3(path string) ([]byte, error) { return Document("v3/" + path) }

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
