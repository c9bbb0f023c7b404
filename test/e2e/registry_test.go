package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"testing"
	"time"
)

// registry serves the one image of an archive under every name and tag; admit
// says whether a request is answered so, or has answered it. It returns the
// registry's host and port, by which containerd takes it for one that speaks no
// TLS.
func registry(t *testing.T, archive string, admit func(w http.ResponseWriter, req *http.Request) bool) string {
	t.Helper()
	files, first, mediaType := blobs(t, archive)
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		what := path.Base(req.URL.Path)
		if !admit(w, req) || what == "v2" {
			return
		}
		if strings.Contains(req.URL.Path, "/manifests/") {
			if !strings.Contains(what, ":") {
				what = first
			}
			w.Header().Set("Content-Type", mediaType)
		}
		body, ok := files[what]
		if !ok {
			http.NotFound(w, req)
			return
		}
		w.Header().Set("Docker-Content-Digest", what)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(body))
	}))
	t.Cleanup(r.Close)
	return strings.Replace(strings.TrimPrefix(r.URL, "http://"), "127.0.0.1", "localhost", 1)
}

// blobs reads the files of an OCI image archive: the blobs by digest, and the
// digest and media type that its index names first.
func blobs(t *testing.T, archive string) (files map[string][]byte, first, mediaType string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files = map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[strings.Replace(strings.TrimPrefix(h.Name, "blobs/"), "/", ":", 1)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var index struct {
		Manifests []struct{ Digest, MediaType string }
	}
	if err := json.Unmarshal(files["index.json"], &index); err != nil || len(index.Manifests) == 0 {
		t.Fatalf("the archive's index: %v", err)
	}
	return files, index.Manifests[0].Digest, index.Manifests[0].MediaType
}
