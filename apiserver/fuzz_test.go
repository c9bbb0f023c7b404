package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
)

// FuzzRequest sends requests of any form through the HTTP door: decoders, all
// kinds of patches, selectors, Accept headers and continue tokens. None makes
// the server fail, and every refusal is a Status.
func FuzzRequest(f *testing.F) {
	w := newWorld(f, quiet, func(c *apiserver.Config) {
		table, err := builtin.New()
		if err != nil {
			f.Fatal(err)
		}
		c.Table = table
	})
	if _, err := builtin.New(); err != nil {
		f.Fatal(err)
	}
	cm := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"k":"v"}}`
	for _, seed := range []struct{ method, resource, name, query, contentType, accept, body string }{
		{"POST", "configmaps", "", "", asJSON, "", cm},
		{"POST", "configmaps", "", "dryRun=All&fieldValidation=Strict", "application/yaml", "application/yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: &a {k: v}\n"},
		{"POST", "pods", "", "dryRun=All", "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf", "k8s\x00\n\t\n\x02v1\x12\x03Pod\x12\x05\n\x03\n\x01x"},
		{"PUT", "configmaps", "x", "dryRun=All", asJSON, "", cm},
		{"PATCH", "configmaps", "x", "dryRun=All", "application/json-patch+json", "", `[{"op":"add","path":"/data/a","value":"b"},{"op":"test","path":"/kind","value":1}]`},
		{"PATCH", "configmaps", "x", "dryRun=All", "application/merge-patch+json", "", `{"data":{"k":null,"b":"c"},"metadata":{"labels":{"a":"b"}}}`},
		{"PATCH", "pods", "x", "dryRun=All", "application/strategic-merge-patch+json", "", `{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"d"}]}}`},
		{"PATCH", "configmaps", "z", "dryRun=All&fieldManager=m&force=true", "application/apply-patch+yaml", "", cm},
		{"GET", "configmaps", "", "labelSelector=a%20in%20(b,c),!d&fieldSelector=metadata.name%21%3Dx", "", "application/json;as=Table;v=v1;g=meta.k8s.io", ""},
		{"GET", "pods", "", "limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTAsInN0YXJ0IjoiYSJ9", "", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io;q=0.5,*/*", ""},
		{"GET", "configmaps", "", "resourceVersion=5&resourceVersionMatch=Exact", "", "", ""},
		{"GET", "configmaps", "", "resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=1", "", "", ""},
		{"GET", "configmaps", "x", "resourceVersion=99999999999999999999", "", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ""},
		{"PUT", "configmaps", "x", "dryRun=All&fieldManager=m", asJSON, "", `{"metadata":{"name":"x","managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"k:{\"a\":1}":{},"v:1":{},"i:0":{},".":{}}}}]}}`},
		{"PATCH", "configmaps", "x", "dryRun=All&fieldManager=m", "application/merge-patch+json", "", `{"metadata":{"managedFields":[{}],"resourceVersion":"x"}}`},
		{"DELETE", "configmaps", "x", "dryRun=All", asJSON, "", `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"u"},"gracePeriodSeconds":0}`},
		{"DELETE", "configmaps", "", "dryRun=All&labelSelector=a%3Db", "", "", ""},
	} {
		f.Add(seed.method, seed.resource, seed.name, seed.query, seed.contentType, seed.accept, seed.body)
	}
	w.serveAny(httptest.NewRequest("POST", cmPath, strings.NewReader(cm)), asJSON)
	f.Fuzz(func(t *testing.T, method, resource, name, query, contentType, accept, body string) {
		switch method {
		case "GET", "POST", "PUT", "PATCH", "DELETE":
		default:
			method = "PATCH"
		}
		if resource != "pods" {
			resource = "configmaps"
		}
		if strings.Contains(query, "watch") || strings.ContainsAny(name, "/") {
			t.Skip("a stream, or another path")
		}
		r := httptest.NewRequest(method, "/api/v1/namespaces/default/"+resource, strings.NewReader(body))
		if name != "" {
			r.URL.Path += "/" + name
		}
		r.URL.RawQuery = query
		r.Header.Set("Accept", accept)
		rec := w.serveAny(r, contentType)
		if rec.Code == http.StatusInternalServerError && upstreams(rec.Body.String()) {
			return
		}
		if rec.Code >= 500 && rec.Code != http.StatusGatewayTimeout {
			t.Errorf("%d %s", rec.Code, rec.Body.String())
		}
		if rec.Code >= 400 && strings.HasPrefix(rec.Header().Get("Content-Type"), asJSON) {
			var s struct{ Kind string }
			if err := json.Unmarshal(rec.Body.Bytes(), &s); err != nil || s.Kind != "Status" {
				t.Errorf("%d: no Status: %s", rec.Code, rec.Body.String())
			}
		}
	})
}

// FuzzWatch asks for watches with any parameters. Each is refused with a Status
// or ends, with nothing but events before.
func FuzzWatch(f *testing.F) {
	w := newWorld(f, quiet)
	for _, q := range []string{
		"", "resourceVersion=0", "resourceVersion=1&allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1",
		"sendInitialEvents=false&resourceVersion=5", "resourceVersionMatch=Exact&resourceVersion=3", "labelSelector=a&fieldSelector=metadata.name%3Dx", "resourceVersion=99999999999&timeoutSeconds=0",
		"limit=1&continue=x", "timeoutSeconds=-1", "resourceVersion=x",
	} {
		f.Add(q, "application/json")
		f.Add(q, "application/json;as=Table;v=v1;g=meta.k8s.io")
		f.Add(q, "application/vnd.kubernetes.protobuf;stream=watch")
	}
	w.serveAny(httptest.NewRequest("POST", cmPath, strings.NewReader(`{"metadata":{"name":"x","labels":{"a":"b"}}}`)), asJSON)
	f.Fuzz(func(t *testing.T, query, accept string) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
		defer cancel()
		r := httptest.NewRequest("GET", cmPath, nil).WithContext(ctx)
		r.URL.RawQuery = query + "&watch=1"
		r.Header.Set("Accept", accept)
		rec := w.serveAny(r, "")
		body := rec.Body.Bytes()
		if rec.Code >= 500 && ctx.Err() == nil && !upstreams(string(body)) {
			t.Errorf("%q: %d %s", query, rec.Code, body)
		}
		if !strings.HasPrefix(rec.Header().Get("Content-Type"), asJSON) {
			return
		}
		for dec := json.NewDecoder(bytes.NewReader(body)); ; {
			var e struct {
				Kind, Type string
				Object     json.RawMessage
			}
			if err := dec.Decode(&e); err != nil {
				if err != io.EOF {
					t.Errorf("%q: %v in %s", query, err, body)
				}
				return
			}
			if rec.Code == http.StatusOK && (e.Type == "" || len(e.Object) == 0) || rec.Code >= 400 && e.Kind != "Status" {
				t.Errorf("%q: %d %s", query, rec.Code, body)
			}
		}
	})
}

func (w *world) serveAny(r *http.Request, contentType string) *httptest.ResponseRecorder {
	r.Header.Set("Content-Type", contentType)
	rec := httptest.NewRecorder()
	w.srv.ServeHTTP(rec, r)
	return rec
}

// upstreams says that upstream answers with the same 500.
func upstreams(body string) bool {
	for _, text := range []string{
		"failed to create typed patch object", "failed to convert new object", "strconv.ParseUint: parsing",
		"resourceVersion should not be set on objects to be created", "yaml: control characters are not allowed",
	} {
		if strings.Contains(body, text) {
			return true
		}
	}
	return false
}
