package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The pages say which server it is and how it was started.
func TestDebugPages(t *testing.T) {
	cp := &controlPlane{cfg: &config{shown: map[string]string{"name": "here"}}}
	paths := map[string]http.Handler{}
	cp.debugPages(paths)
	for path, want := range map[string][]string{
		"/statusz": {"apiserver statusz", "Binary version: " + strings.TrimPrefix(gitVersion, "v"), "/healthz /livez /metrics"},
		"/flagz":   {"apiserver flagz", "name=here"},
	} {
		w := httptest.NewRecorder()
		paths[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		for _, text := range want {
			if !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s: %d without %q:\n%s", path, w.Code, text, w.Body)
			}
		}
	}
}
