package apiserver_test

import (
	"net/http"
	"strings"
	"testing"
)

// A namespace in the body of a cluster-scoped object is taken off, not
// refused (seen from upstream's 1.36.2).
func TestNamespaceOfWhatHasNone(t *testing.T) {
	w := newWorld(t)
	const body = `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x","namespace":"foo"}}`
	for _, step := range []struct{ method, path, content, body string }{
		{http.MethodPost, "/api/v1/namespaces", "application/json", body},
		{http.MethodPut, "/api/v1/namespaces/x", "application/json", body},
		{http.MethodPatch, "/api/v1/namespaces/x", "application/merge-patch+json", `{"metadata":{"namespace":"foo","labels":{"a":"b"}}}`},
		{http.MethodPatch, "/api/v1/namespaces/x?fieldManager=m&force=true", "application/apply-patch+yaml", body},
	} {
		resp, got := w.http(step.method, step.path, step.body, "Content-Type", step.content)
		if resp.StatusCode >= 300 || strings.Contains(got, `"namespace":`) {
			t.Errorf("%s %s: %d %s", step.method, step.content, resp.StatusCode, got)
		}
	}
}
