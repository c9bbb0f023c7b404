package openapi

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Of a version of which one resource is served, only its paths are published.
func TestOptionalResources(t *testing.T) {
	gv := schema.GroupVersion{Group: "certificates.k8s.io", Version: "v1beta1"}
	bundles, requests := gv.WithResource("clustertrustbundles"), gv.WithResource("podcertificaterequests")
	hashes := map[string]bool{}
	for _, tc := range []struct {
		served Optional
		want   map[string]bool
	}{
		{Optional{bundles}, map[string]bool{bundles.Resource: true}},
		{Optional{requests}, map[string]bool{requests.Resource: true}},
		{Optional{bundles, requests}, map[string]bool{bundles.Resource: true, requests.Resource: true}},
	} {
		docs := tc.served.Documents()
		hashes[docs["apis/"+gv.String()]] = true
		text, err := tc.served.V3("apis/" + gv.String())
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Paths map[string]json.RawMessage }
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		paths, _ := tc.served.V2(func(string) bool { return false })
		for _, in := range []map[string]json.RawMessage{doc.Paths, paths} {
			got := map[string]bool{}
			for path := range in {
				for _, r := range []string{bundles.Resource, requests.Resource} {
					if strings.Contains(path, "/"+r) {
						got[r] = true
					}
				}
			}
			if _, ok := in["/apis/"+gv.String()+"/"]; !ok || len(got) != len(tc.want) || !got[bundles.Resource] && tc.want[bundles.Resource] {
				t.Errorf("%v: paths of %v, want %v", tc.served, got, tc.want)
			}
		}
	}
	if len(hashes) != 3 {
		t.Errorf("hashes: %v", hashes)
	}
	if (Optional{}).Documents()["apis/"+gv.String()] != "" {
		t.Error("what is not served is published")
	}
}
