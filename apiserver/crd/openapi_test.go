package crd_test

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/google/go-cmp/cmp"
)

func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	if _, root, _ := w.do("GET", "/openapi/v3", ""); strings.Contains(root, "stable.example.com") {
		t.Error("published before it is defined")
	}
	w.define(cronTabs)
	w.define(strings.NewReplacer("crontabs", "clusterthings", "CronTab", "ClusterThing", "Namespaced", "Cluster", "[ct]", "[]").Replace(cronTabs))
	var root struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		}
	}
	_, text, _ := w.do("GET", "/openapi/v3", "")
	if err := json.Unmarshal([]byte(text), &root); err != nil {
		t.Fatal(err)
	}
	url := root.Paths["apis/stable.example.com/v1"].URL
	if _, builtin := root.Paths["apis/apps/v1"]; !builtin || !strings.HasPrefix(url, "/openapi/v3/apis/stable.example.com/v1?hash=") {
		t.Fatalf("root: %s", text)
	}
	code, text, h := w.do("GET", url, "")
	if code != 200 {
		t.Fatal(code, text)
	}
	checkRefs(t, text, "#/components/schemas/", func(doc map[string]any) map[string]any {
		return doc["components"].(map[string]any)["schemas"].(map[string]any)
	})
	for _, want := range []string{
		`"/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}/status"`, `"/apis/stable.example.com/v1/clusterthings/{name}"`,
		`"com.example.stable.v1.CronTabList"`, `"patchStableExampleComV1NamespacedCronTab"`, `"description":"A table of jobs"`, `"fieldValidation"`,
		`{"group":"stable.example.com","kind":"CronTab","version":"v1"}`, `"x-kubernetes-validations"`, `"default":10`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the v3 document lacks %s", want)
		}
	}
	for _, no := range []string{"Lease", "coordination", "protobuf", "strategic-merge-patch+json", "{namespace}/clusterthings"} {
		if strings.Contains(text, no) {
			t.Errorf("the v3 document has %s", no)
		}
	}
	if code, _, _ := w.do("GET", url, "", "If-None-Match: "+h.Get("ETag")); code != http.StatusNotModified {
		t.Errorf("asked again: %d", code)
	}
	if code, pb, _ := w.do("GET", url, "", "Accept: application/com.github.proto-openapi.spec.v3.v1.0+protobuf"); code != 200 || len(pb) == 0 {
		t.Errorf("protobuf: %d", code)
	}
	_, v2, _ := w.do("GET", "/openapi/v2", "")
	checkRefs(t, v2, "#/definitions/", func(doc map[string]any) map[string]any { return doc["definitions"].(map[string]any) })
	_, v2pb, _ := w.do("GET", "/openapi/v2", "", "Accept: application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
	var doc openapi_v2.Document
	if err := proto.Unmarshal([]byte(v2pb), &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range doc.Definitions.AdditionalProperties {
		found[d.Name] = true
	}
	if !found["com.example.stable.v1.CronTab"] || !found["io.k8s.api.core.v1.Pod"] || doc.Swagger != "2.0" {
		t.Error("the v2 protobuf document lacks the custom or the built-in kinds")
	}
	w.ok("DELETE", definitionsPath+"/crontabs.stable.example.com", "")
	w.until(tabs, func(u *unstructured.Unstructured) bool { return u == nil })
	if _, again, _ := w.do("GET", "/openapi/v3/apis/stable.example.com/v1", ""); strings.Contains(again, `"com.example.stable.v1.CronTab"`) {
		t.Error("published although it is gone")
	}
}

// checkRefs demands that a document parses and that every reference leads to
// something.
func checkRefs(t *testing.T, text, prefix string, models func(map[string]any) map[string]any) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	have := models(doc)
	if have["com.example.stable.v1.CronTab"] == nil {
		t.Error("the document lacks the custom kind")
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok && strings.HasPrefix(ref, prefix) && have[strings.TrimPrefix(ref, prefix)] == nil {
				t.Errorf("%s leads nowhere", ref)
			}
			for _, c := range v {
				walk(c)
			}
		case []any:
			for _, c := range v {
				walk(c)
			}
		}
	}
	walk(doc)
}

// published are definitions, and what Kubernetes 1.36.2 publishes of them
// (recorded from its API server).
//
//go:embed testdata/published.json
var published []byte

func TestPublishedAsRecorded(t *testing.T) {
	var want struct {
		Definitions []json.RawMessage
		V2, V3      map[string]any
		Operations  []string
	}
	if err := json.Unmarshal(published, &want); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	for _, d := range want.Definitions {
		w.define(string(d))
	}
	var v2 struct{ Definitions map[string]any }
	var v3 struct {
		Paths      map[string]map[string]any
		Components struct{ Schemas map[string]any }
	}
	for path, into := range map[string]any{"/openapi/v2": &v2, "/openapi/v3/apis/oa.example.com/v1": &v3} {
		_, text, _ := w.do("GET", path, "")
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range want.V2 {
		if diff := cmp.Diff(want, v2.Definitions[name]); diff != "" {
			t.Errorf("v2 %s (-want +got):\n%s", name, diff)
		}
	}
	for name, want := range want.V3 {
		if diff := cmp.Diff(want, v3.Components.Schemas[name]); diff != "" {
			t.Errorf("v3 %s (-want +got):\n%s", name, diff)
		}
	}
	var ops []string
	for path, item := range v3.Paths {
		for method, op := range item {
			if op, ok := op.(map[string]any); ok && op["operationId"] != nil && !strings.Contains(path, "emptyps") {
				ops = append(ops, fmt.Sprint(method, " ", path, " ", op["operationId"], ": ", op["description"]))
			}
		}
	}
	slices.Sort(ops)
	if diff := cmp.Diff(want.Operations, ops); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
}

// TestDocument: who type-checks policies finds custom and built-in kinds.
func TestDocument(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	for path, want := range map[string]string{"v3/apis/stable.example.com/v1": `"com.example.stable.v1.CronTab"`, "v3/apis/apps/v1": `"io.k8s.api.apps.v1.Deployment"`} {
		if text, err := w.mgr.Document(path); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %s: %v", path, want, err)
		}
	}
	if _, err := w.mgr.Document("v3/apis/nobody.example.com/v1"); err == nil {
		t.Error("a document of nothing")
	}
}
