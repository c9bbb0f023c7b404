package openapi

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
)

func get(t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) []byte {
	t.Helper()
	var r io.Reader = resp.Body
	if resp.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestV2(t *testing.T) {
	for _, c := range []struct {
		accept, encoding string
		code             int
		media            string
	}{
		{"", "", 200, "application/json"},
		{"application/json", "gzip", 200, "application/json"},
		{"*/*", "gzip;q=0", 200, "application/json"},
		{"application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "gzip", 200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"},
		{"application/com.github.proto-openapi.spec.v2.v1.0+protobuf, application/json;q=0.5", "", 200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"},
		{"text/html", "", 406, ""},
	} {
		t.Run(c.accept+"/"+c.encoding, func(t *testing.T) {
			resp := get(t, "/openapi/v2", "Accept", c.accept, "Accept-Encoding", c.encoding)
			if resp.StatusCode != c.code || resp.Header.Get("Content-Type") != c.media {
				t.Fatalf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
			}
			if c.code != 200 {
				return
			}
			if got, want := resp.Header.Get("Content-Encoding") == "gzip", c.encoding == "gzip"; got != want {
				t.Errorf("compressed %v, want %v", got, want)
			}
			data := body(t, resp)
			if c.media == "application/json" {
				var doc struct {
					Definitions map[string]any `json:"definitions"`
				}
				if err := json.Unmarshal(data, &doc); err != nil {
					t.Fatal(err)
				}
				if doc.Definitions["io.k8s.api.apps.v1.Deployment"] == nil {
					t.Error("no schema of Deployment")
				}
				return
			}
			doc := &openapi_v2.Document{}
			if err := proto.Unmarshal(data, doc); err != nil {
				t.Fatal(err)
			}
			if len(doc.GetDefinitions().GetAdditionalProperties()) == 0 {
				t.Error("no definitions")
			}
		})
	}
}

func TestV3(t *testing.T) {
	var root struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(body(t, get(t, "/openapi/v3")), &root); err != nil {
		t.Fatal(err)
	}
	for path, at := range root.Paths {
		resp := get(t, at.URL, "Accept-Encoding", "gzip")
		if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "public, immutable" {
			t.Fatalf("%s: %d %v", at.URL, resp.StatusCode, resp.Header)
		}
		var doc struct {
			OpenAPI string `json:"openapi"`
		}
		if err := json.Unmarshal(body(t, resp), &doc); err != nil || doc.OpenAPI != "3.0.0" {
			t.Errorf("%s: %v %q", path, err, doc.OpenAPI)
		}
		resp = get(t, "/openapi/v3/"+path, "Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
		if err := proto.Unmarshal(body(t, resp), &openapi_v3.Document{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	apps := root.Paths["apis/apps/v1"].URL
	if apps == "" {
		t.Fatal("no document of apis/apps/v1")
	}
	old := get(t, "/openapi/v3/apis/apps/v1?hash=OLD")
	if old.StatusCode != http.StatusMovedPermanently || old.Header.Get("Location") != apps {
		t.Errorf("old hash: %d to %s, want %s", old.StatusCode, old.Header.Get("Location"), apps)
	}
	if old.Header.Get("ETag") == "" || old.Header.Get("Content-Type") != "application/json" || len(body(t, old)) > 0 {
		t.Errorf("old hash: %v", old.Header)
	}
	for _, path := range []string{"/openapi/v3/apis/nothing/v1", "/openapi/v3/"} {
		if resp := get(t, path); resp.StatusCode != 404 || len(body(t, resp)) > 0 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	resp := get(t, "/openapi/v3/apis/apps/v1", "Accept", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf")
	if got := resp.Header.Get("Content-Type"); got != "application/com.github.proto-openapi.spec.v3.v1.0+protobuf" {
		t.Errorf("the old name of the media type: %d %s", resp.StatusCode, got)
	}
}

func TestETag(t *testing.T) {
	tag := get(t, "/openapi/v2").Header.Get("ETag")
	if !strings.HasPrefix(tag, `"`) {
		t.Fatalf("ETag %s", tag)
	}
	for _, header := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
		resp := get(t, "/openapi/v2", "If-None-Match", header)
		if resp.StatusCode != http.StatusNotModified || len(body(t, resp)) != 0 {
			t.Errorf("If-None-Match %s: %d", header, resp.StatusCode)
		}
	}
	if resp := get(t, "/openapi/v2", "If-None-Match", `"other"`); resp.StatusCode != 200 {
		t.Errorf("other tag: %d", resp.StatusCode)
	}
}

func TestMethods(t *testing.T) {
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest("POST", "/openapi/v2", nil))
	if w.Code != http.StatusOK { // Kubernetes' servers do not ask for the method
		t.Errorf("POST: %d", w.Code)
	}
	w = httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest("HEAD", "/openapi/v3/apis/apps/v1", nil))
	if w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d with %d bytes", w.Code, w.Body.Len())
	}
}
