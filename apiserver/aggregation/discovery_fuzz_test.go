package aggregation

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/internal/warp"
)

// FuzzDiscovery reads what a server says that it serves: it is refused, or
// becomes documents of discovery that name each resource once and can be sent.
func FuzzDiscovery(f *testing.F) {
	const text = `{"kind":"APIResourceList","groupVersion":"a.example.com/v1","resources":[{"name":"things","singularName":"thing","namespaced":true,"kind":"Thing","verbs":["get","list"],"shortNames":["th"],"categories":["all"]},{"name":"things/status","kind":"Thing","verbs":["get"],"group":"b","version":"v9"},{"name":"others/scale/deep","kind":"Scale","verbs":null},{"name":"","kind":"X"},{"name":"things","kind":"Again"}],"paths":{"apis/a.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/a.example.com/v1?hash=1"}}}`
	var whole any
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		f.Fatal(err)
	}
	gv := schema.GroupVersion{Group: "a.example.com", Version: "v1"}
	for _, how := range []string{"", "\x01\x02\x01", "\x02\x03\x01\x01\x02\x05", "\x03\x01\x01\x04\x04", "\x48\x08\x23\x03\x8a\x01\x02"} {
		f.Add([]byte(how))
	}
	f.Fuzz(func(t *testing.T, how []byte) {
		text, err := json.Marshal(warp.Value(whole, how))
		if err != nil {
			t.Fatal(err)
		}
		if hash, err := indexed(text, "apis/"+gv.String()); err == nil && hash != "" && len(hash) != 64 {
			t.Errorf("%s: a hash %q", text, hash)
		}
		list, err := resourcesOf(text, gv.String())
		if err != nil {
			return
		}
		v := discovery.Version{GV: gv, Resources: list}
		groups := []discovery.Group{{Name: gv.Group, Versions: []discovery.Version{v}}}
		seen := map[string]bool{}
		for _, g := range discovery.Aggregated(groups, false).Items {
			for _, v := range g.Versions {
				for _, r := range v.Resources {
					if seen[r.Resource] || r.ResponseKind == nil {
						t.Errorf("%s: %q again, or without a kind", text, r.Resource)
					}
					seen[r.Resource] = true
				}
			}
		}
		if _, err := json.Marshal([]any{discovery.Resources(v), discovery.List(groups), discovery.One(groups[0]), discovery.Aggregated(groups, false)}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	})
}
