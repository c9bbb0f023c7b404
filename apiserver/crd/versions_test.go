package crd_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestVersionsHaveTheirOwnSubresources: where one version has a status
// subresource and another none, each is served and written as it says.
func TestVersionsHaveTheirOwnSubresources(t *testing.T) {
	w := newWorld(t)
	w.define(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: apples.fruit.example.com}
spec:
  group: fruit.example.com
  scope: Cluster
  names: {plural: apples, kind: Apple}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {status: {type: object, properties: {x: {type: integer, maximum: 5}}}}}}
    subresources: {status: {}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`)
	const apples = "/apis/fruit.example.com/v%/apples"
	at := func(v, rest string) string { return strings.Replace(apples, "%", v, 1) + rest }
	w.ok("POST", at("1", ""), `{"apiVersion":"fruit.example.com/v1","kind":"Apple","metadata":{"name":"a"},"status":{"x":1}}`, "Content-Type: application/json")
	merge := "Content-Type: application/merge-patch+json"
	for _, c := range []struct {
		path, patch string
		want        any
		generation  int64
	}{
		{at("1", "/a"), `{"status":{"x":1}}`, nil, 1},
		{at("2", "/a"), `{"status":{"x":2}}`, int64(2), 2}, // counts as any field
		{at("1", "/a"), `{"status":{"x":3}}`, int64(2), 2},
		{at("1", "/a/status"), `{"status":{"x":4}}`, int64(4), 2},
	} {
		u := w.ok("PATCH", c.path, c.patch, merge)
		if got := get(u, "status.x"); got != c.want || u.GetGeneration() != c.generation {
			t.Errorf("%s %s: status %v, generation %d; want %v, %d", c.path, c.patch, got, u.GetGeneration(), c.want, c.generation)
		}
	}
	// Messages name fields of status as they are within it.
	w.refused(422, []string{"status.x: Invalid value: 6: x in body should be less than or equal to 5"}, "PATCH", at("1", "/a/status"), `{"status":{"x":6}}`, merge)
	w.refused(404, nil, "PATCH", at("2", "/a/status"), `{"status":{}}`, merge)
	for v, want := range map[string]bool{"1": true, "2": false} {
		text, _ := json.Marshal(w.ok("GET", "/apis/fruit.example.com/v"+v, "").Object)
		if got := strings.Contains(string(text), `"apples/status"`); got != want {
			t.Errorf("v%s lists its status: %v", v, got)
		}
	}
}
