package openapi

import (
	"testing"

	"github.com/coxswain/cox/api/builtin"
)

// The committed documents are those of the table: a kind, a view or a
// subresource that was added or removed wants go generate.
func TestDocumentsAreOfTheTable(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, d := range index {
		files[d.path] = d.file
	}
	served := map[string]map[string]bool{}
	for _, k := range table.Kinds {
		for _, v := range k.Views {
			root := "apis/" + v.GroupVersion().String()
			if v.Group == "" {
				root = "api/" + v.Version
			}
			if served[root] == nil {
				served[root] = map[string]bool{"/" + root + "/": true}
			}
			collection := "/" + root + "/" + k.Resource
			if k.Namespaced {
				collection = "/" + root + "/namespaces/{namespace}/" + k.Resource
			}
			served[root][collection] = true
			for sub, s := range k.Subresources {
				served[root][collection+"/{name}/"+sub] = true
				if s.Connect != nil && s.Connect.Path {
					served[root][collection+"/{name}/"+sub+"/{path}"] = true
				}
			}
		}
	}
	for root, paths := range served {
		file, ok := files["v3/"+root]
		if !ok {
			t.Errorf("no document of %s: run go generate ./apiserver/openapi", root)
			continue
		}
		doc := embedded(t, file).(map[string]any)["paths"].(map[string]any)
		for p := range paths {
			if doc[p] == nil {
				t.Errorf("%s is not in the document: run go generate ./apiserver/openapi", p)
			}
		}
	}
	v2 := embedded(t, files["v2"]).(map[string]any)["paths"].(map[string]any)
	for _, paths := range served {
		for p := range paths {
			if v2[p] == nil {
				t.Errorf("%s is not in the v2 document: run go generate ./apiserver/openapi", p)
			}
		}
	}
}
