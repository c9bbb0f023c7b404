package aggregation

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/internal/warp"
)

// FuzzPartOf reads what a server publishes as its OpenAPI: it is refused, or
// only what is its own of it is taken, and is whole.
func FuzzPartOf(f *testing.F) {
	const text = `{"swagger":"2.0","info":{"title":"x","version":"v1"},"paths":{"/apis/a.example.com/v1/things":{"get":{"parameters":[{"$ref":"#/parameters/p"}],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/a.Thing"}}}}},"/api/v1/pods":{}},"definitions":{"a.Thing":{"type":"object","properties":{"spec":{"$ref":"#/definitions/a.Spec"},"list":{"type":"array","items":{"$ref":"#/definitions/a.Thing"}}},"x-kubernetes-group-version-kind":[{"group":"a.example.com","kind":"Thing","version":"v1"}]},"a.Spec":{"type":"object"},"b.Other":{"type":"string","x-kubernetes-group-version-kind":[{"group":"","kind":"Pod","version":"v1"}]}},"parameters":{"p":{"name":"p","in":"query","type":"string"}}}`
	var whole any
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		f.Fatal(err)
	}
	gv := schema.GroupVersion{Group: "a.example.com", Version: "v1"}
	for _, how := range []string{"", "\x01\x02\x01", "\x01\x00\x01\x01\x01\x04\x04", "\x02\x01\x01\x01\x02\x03\x05\x06", "\x2b\x2d\x03\x48\x08\x23\x03\x8a"} {
		f.Add([]byte(how))
	}
	f.Fuzz(func(t *testing.T, how []byte) {
		text, err := json.Marshal(warp.Value(whole, how))
		if err != nil {
			t.Fatal(err)
		}
		p, err := partOf(text, gv)
		if err != nil || p == nil {
			return
		}
		paths, definitions := map[string]json.RawMessage{}, map[string]json.RawMessage{}
		p.addTo(paths, definitions, func(name string) bool { return name == "a.Spec" })
		if _, ok := paths["/api/v1/pods"]; ok {
			t.Errorf("another's path is taken of %s", text)
		}
		if _, err := json.Marshal(map[string]any{"p": paths, "d": definitions}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	})
}
