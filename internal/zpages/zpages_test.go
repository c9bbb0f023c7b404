package zpages

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestPages(t *testing.T) {
	c := Component{
		Name: "kubelet", Version: "v1.36.2+x", Started: time.Now().Add(-(25*time.Hour + 3*time.Minute + 4500*time.Millisecond)),
		Paths: []string{"/healthz", "/flagz"}, Flags: map[string]string{"v": "2", "node-ip": "192.0.2.1"},
	}
	const structured = ";v=v1beta1;g=config.k8s.io;as="
	for name, tc := range map[string]struct {
		page        http.HandlerFunc
		accept      []string
		code        int
		contentType string
		want        []string
	}{
		"text": {c.Statusz, nil, 200, "text/plain; charset=utf-8", []string{
			"\nkubelet statusz\nWarning: This endpoint is not meant", "Up: 25 hr 03 min 04 sec\n", "Go version: " + runtime.Version(), "Binary version: 1.36.2+x\nEmulation version: 1.36\nPaths: /flagz /healthz\n",
		}},
		"any":                {c.Statusz, []string{"*/*"}, 200, "text/plain; charset=utf-8", []string{"kubelet statusz"}},
		"flags":              {c.Flagz, []string{"text/plain"}, 200, "text/plain; charset=utf-8", []string{"kubelet flagz\n", "\n\nnode-ip=192.0.2.1\nv=2\n"}},
		"json":               {c.Statusz, []string{"application/json" + structured + "Statusz"}, 200, "application/json;g=config.k8s.io;v=v1beta1;as=Statusz", []string{`"apiVersion": "config.k8s.io/v1beta1"`, `"name": "kubelet"`, `"uptimeSeconds": 90184`}},
		"yaml":               {c.Flagz, []string{"application/yaml" + structured + "Flagz"}, 200, "application/yaml;g=config.k8s.io;v=v1beta1;as=Flagz", []string{"flags:\n  node-ip: 192.0.2.1\n", "kind: Flagz\n"}},
		"second":             {c.Flagz, []string{"text/html, application/xml", "application/json" + structured + "Flagz"}, 200, "application/json;g=config.k8s.io;v=v1beta1;as=Flagz", []string{`"v": "2"`}},
		"plain":              {c.Statusz, []string{"application/json"}, 406, "application/json", []string{"only the following media types are accepted: application/json, application/yaml, text/plain", `"reason": "NotAcceptable"`}},
		"yaml of no version": {c.Statusz, []string{"application/yaml"}, 406, "application/yaml", []string{"kind: Status\n", "reason: NotAcceptable\n"}},
		"version":            {c.Statusz, []string{"application/json;v=v1;g=config.k8s.io;as=Statusz"}, 406, "application/json", nil},
		"kind":               {c.Statusz, []string{"application/json" + structured + "Flagz"}, 406, "application/json", nil},
		"html":               {c.Statusz, []string{"text/html"}, 406, "application/json", nil},
		"nonsense":           {c.Statusz, []string{";;"}, 406, "application/json", nil},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Accept"] = tc.accept
		w := httptest.NewRecorder()
		tc.page(w, r)
		if w.Code != tc.code || w.Header().Get("Content-Type") != tc.contentType || w.Header().Get("Warning") != "" {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		for _, s := range tc.want {
			if !strings.Contains(w.Body.String(), s) {
				t.Errorf("%s: no %q in\n%s", name, s, w.Body)
			}
		}
		var v map[string]any
		switch {
		case strings.HasPrefix(tc.contentType, "application/json"):
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case strings.HasPrefix(tc.contentType, "application/yaml"):
			if err := yaml.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestFormerVersion(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept", "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz")
	w := httptest.NewRecorder()
	Component{Name: "kubelet"}.Statusz(w, r)
	if got := w.Header().Get("Warning"); w.Code != 200 || got != `299 - "This version of the statusz endpoint is deprecated. Please use a newer version."` {
		t.Errorf("%d, warning %s", w.Code, got)
	}
}
