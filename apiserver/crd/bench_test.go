package crd_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// benchDefinition is what a generated definition of an operator looks like:
// thirty fields, some of them nested, with bounds, defaults, a rule, a list
// map of conditions and a status.
func benchDefinition() string {
	var b strings.Builder
	b.WriteString(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.bench.example.com"},
"spec":{"group":"bench.example.com","scope":"Namespaced","names":{"plural":"things","singular":"thing","kind":"Thing","listKind":"ThingList"},
"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object",
"properties":{"apiVersion":{"type":"string"},"kind":{"type":"string"},"metadata":{"type":"object"},"status":{"type":"object","properties":{
"phase":{"type":"string","enum":["Up","Down"]},"conditions":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["type"],
"items":{"type":"object","required":["type"],"properties":{"type":{"type":"string"},"status":{"type":"string"}}}}}},
"spec":{"type":"object","required":["f1"],"x-kubernetes-validations":[{"rule":"!has(self.f1) || self.f1 != 'bad'"}],"properties":{`)
	for i := range 20 {
		if i > 0 {
			b.WriteByte(',')
		}
		if i%4 == 0 {
			fmt.Fprintf(&b, `"f%d":{"type":"object","properties":{"a":{"type":"string","default":"x"},"n":{"type":"integer","format":"int32","minimum":0},"b":{"type":"array","maxItems":10,"items":{"type":"string","maxLength":20}}}}`, i)
		} else {
			fmt.Fprintf(&b, `"f%d":{"type":"string","maxLength":100}`, i)
		}
	}
	b.WriteString(`}}}}}}]}}`)
	return b.String()
}

// benchBody is an object of about 1 KiB.
func benchBody(name, value string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"apiVersion":"bench.example.com/v1","kind":"Thing","metadata":{"name":%q},"spec":{`, name)
	for i := range 20 {
		if i > 0 {
			b.WriteByte(',')
		}
		if i%4 == 0 {
			fmt.Fprintf(&b, `"f%d":{"a":%q,"n":7,"b":["p","q","r"]}`, i, value)
		} else {
			fmt.Fprintf(&b, `"f%d":%q`, i, strings.Repeat("x", 45))
		}
	}
	b.WriteString(`}}`)
	return b.String()
}

// benchConfig is a ConfigMap of the same size, to compare with.
func benchConfig(name, value string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"v":%q`, name, value)
	for i := range 19 {
		fmt.Fprintf(&b, `,"f%d":%q`, i, strings.Repeat("x", 50))
	}
	b.WriteString(`}}`)
	return b.String()
}

func (w *world) serve(b *testing.B, method, path, body, contentType string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", "bench/1")
	rec := httptest.NewRecorder()
	w.srv.ServeHTTP(rec, r)
	if rec.Code >= 300 {
		b.Fatal(rec.Code, rec.Body.String())
	}
}

// BenchmarkServed compares custom resources with a built-in kind: the ratio is
// what counts.
func BenchmarkServed(b *testing.B) {
	for _, kind := range []struct {
		name, path string
		body       func(name, value string) string
	}{
		{"Thing", "/apis/bench.example.com/v1/namespaces/default/things", benchBody},
		{"ConfigMap", "/api/v1/namespaces/default/configmaps", benchConfig},
	} {
		made := func(b *testing.B) *world {
			w := newWorld(b)
			w.define(benchDefinition())
			w.serve(b, http.MethodPost, kind.path, kind.body("one", "v"), "application/json")
			b.ReportAllocs()
			return w
		}
		b.Run("Create/"+kind.name, func(b *testing.B) {
			w := made(b)
			for i := 0; b.Loop(); i++ {
				w.serve(b, http.MethodPost, kind.path, kind.body(fmt.Sprint("c", i), "v"), "application/json")
			}
		})
		b.Run("Get/"+kind.name, func(b *testing.B) {
			w := made(b)
			for b.Loop() {
				w.serve(b, http.MethodGet, kind.path+"/one", "", "")
			}
		})
		b.Run("Update/"+kind.name, func(b *testing.B) {
			w := made(b)
			for i := 0; b.Loop(); i++ {
				w.serve(b, http.MethodPut, kind.path+"/one", kind.body("one", fmt.Sprint(i)), "application/json")
			}
		})
		b.Run("Patch/"+kind.name, func(b *testing.B) {
			w := made(b)
			for i := 0; b.Loop(); i++ {
				w.serve(b, http.MethodPatch, kind.path+"/one", fmt.Sprintf(`{"metadata":{"labels":{"a":"%d"}}}`, i), string(types.MergePatchType))
			}
		})
		b.Run("Apply/"+kind.name, func(b *testing.B) {
			w := made(b)
			for i := 0; b.Loop(); i++ {
				w.serve(b, http.MethodPatch, kind.path+"/one?fieldManager=m&force=true", kind.body("one", fmt.Sprint(i)), string(types.ApplyYAMLPatchType))
			}
		})
		b.Run("List500/"+kind.name, func(b *testing.B) {
			w := made(b)
			for i := range 500 {
				w.serve(b, http.MethodPost, kind.path, kind.body(fmt.Sprint("c", i), "v"), "application/json")
			}
			for b.Loop() {
				w.serve(b, http.MethodGet, kind.path, "", "")
			}
		})
	}
}
