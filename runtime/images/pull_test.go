package images_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/coxswain/cox/runtime"
	"github.com/coxswain/cox/runtime/images"
	"github.com/coxswain/cox/runtime/runtimetest"
)

const (
	user     = "alice"
	password = "in wonderland"
)

// testRegistry is a registry over TLS that wants credentials.
type testRegistry struct {
	*httptest.Server
	host string
	// spoil may change an answer's body, or hold it up.
	mu    sync.Mutex
	spoil func(path string, body []byte, w io.Writer) bool
}

func newRegistry(t *testing.T) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if u, p, ok := req.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
			return
		}
		r.mu.Lock()
		spoil := r.spoil
		r.mu.Unlock()
		if spoil == nil || req.Method != http.MethodGet {
			real.ServeHTTP(w, req)
			return
		}
		rec := httptest.NewRecorder()
		real.ServeHTTP(rec, req)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		if !spoil(req.URL.Path, rec.Body.Bytes(), w) {
			_, _ = w.Write(rec.Body.Bytes())
		}
	}))
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(r.Close)
	u, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.host = u.Host
	return r
}

func (r *testRegistry) set(spoil func(string, []byte, io.Writer) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil = spoil
}

// push puts an image with one layer of so many bytes into the registry.
func (r *testRegistry) push(t *testing.T, repo string, size int64) v1.Image {
	t.Helper()
	layer, err := random.Layer(size, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(compressed)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	at, tag, _ := strings.Cut(repo, ":")
	for _, blob := range [][]byte{raw, data} {
		r.send(t, http.MethodPost, fmt.Sprintf("/v2/%s/blobs/uploads/?digest=sha256:%x", at, sha256.Sum256(blob)), "application/octet-stream", blob)
	}
	r.send(t, http.MethodPut, "/v2/"+at+"/manifests/"+tag, "application/vnd.docker.distribution.manifest.v2+json", manifest)
	return img
}

func (r *testRegistry) send(t *testing.T, method, path, mediaType string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, password)
	req.Header.Set("Content-Type", mediaType)
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, said)
	}
}

// trust writes a hosts.toml by which a registry is asked instead of the one
// that images name.
func (r *testRegistry) trust(t *testing.T, dir, named, more string) {
	t.Helper()
	at := filepath.Join(dir, named)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(at, "ca.crt")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n%s", "https://"+named, r.URL, ca, more)
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func startWithRegistries(t *testing.T) (*runtime.Runtime, string) {
	t.Helper()
	cfg := runtimetest.Config(t)
	cfg.RegistryDir = t.TempDir()
	rt, err := runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt, cfg.RegistryDir
}

// TestPull pulls over TLS with credentials, and through a mirror that has the
// credentials in its configuration.
func TestPull(t *testing.T) {
	rt, dir := startWithRegistries(t)
	reg := newRegistry(t)
	reg.push(t, "team/app:1", 1000)
	ctx := t.Context()
	direct := reg.host + "/team/app:1"
	reg.trust(t, dir, "stranger.example", "")
	if err := os.Remove(filepath.Join(dir, "stranger.example", "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if _, err := images.Pull(ctx, rt.Conn(), "stranger.example/team/app:1", nil, 0, nil); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("a registry whose authority cannot be read: %v", err)
	}
	reg.trust(t, dir, reg.host, "")
	if _, err := images.Pull(ctx, rt.Conn(), direct, nil, 0, nil); err == nil || !strings.Contains(err.Error(), "no basic auth credentials") {
		t.Errorf("without credentials: %v", err)
	}
	if _, err := images.Pull(ctx, rt.Conn(), direct, &runtimeapi.AuthConfig{Username: user, Password: "wrong"}, 0, nil); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v", err)
	}
	full, err := images.Pull(ctx, rt.Conn(), direct, &runtimeapi.AuthConfig{Username: user, Password: password}, 0, nil)
	if err != nil || full != direct {
		t.Errorf("pull: %s, %v", full, err)
	}
	reg.trust(t, dir, "registry.example", fmt.Sprintf("  [host.%q.header]\n    Authorization = [%q]\n", reg.URL, "Basic YWxpY2U6aW4gd29uZGVybGFuZA=="))
	if full, err = images.Pull(ctx, rt.Conn(), "registry.example/team/app:1", nil, 0, nil); err != nil || full != "registry.example/team/app:1" {
		t.Errorf("pull through a mirror: %s, %v", full, err)
	}
	list, err := images.List(ctx, rt.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Join(list[0].Names, " "); !strings.Contains(n, "registry.example/team/app:1") || !strings.Contains(n, direct) {
		t.Errorf("images: %v", list)
	}
}

// TestPullTellsProgress holds a layer up half way.
func TestPullTellsProgress(t *testing.T) {
	rt, dir := startWithRegistries(t)
	reg := newRegistry(t)
	reg.trust(t, dir, reg.host, "")
	img := reg.push(t, "slow:1", 8<<20)
	reg.push(t, "other:1", 1<<10)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{})
	reg.set(func(path string, body []byte, w io.Writer) bool {
		if !strings.HasSuffix(path, d.String()) {
			return false
		}
		_, _ = w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		select {
		case <-seen:
		case <-time.After(20 * time.Second):
			t.Error("no progress was told")
		}
		_, _ = w.Write(body[len(body)/2:])
		return true
	})
	var once sync.Once
	auth := &runtimeapi.AuthConfig{Username: user, Password: password}
	_, err = images.Pull(t.Context(), rt.Conn(), reg.host+"/slow:1", auth, time.Millisecond, func(done, total int64) {
		if total != size || done > size {
			t.Errorf("progress: %d of %d, want of %d", done, total, size)
		}
		if done > 0 {
			once.Do(func() { close(seen) })
		}
	})
	if err != nil {
		t.Error(err)
	}
	if done, total, err := images.Progress(t.Context(), rt.Conn(), reg.host+"/slow:1"); done != 0 || total != 0 || err != nil {
		t.Errorf("progress when there is none: %d of %d, %v", done, total, err)
	}
}

// TestPullRefusesOtherContent: what does not have the promised digest is no
// image of ours, whether it is the layer or the manifest.
func TestPullRefusesOtherContent(t *testing.T) {
	rt, dir := startWithRegistries(t)
	reg := newRegistry(t)
	reg.trust(t, dir, reg.host, "")
	auth := &runtimeapi.AuthConfig{Username: user, Password: password}
	for what, part := range map[string]string{"layer": "/blobs/", "manifest": "/manifests/"} {
		repo := "bad-" + what + ":1"
		reg.push(t, repo, 1000)
		reg.set(func(path string, body []byte, w io.Writer) bool {
			if !strings.Contains(path, part) {
				return false
			}
			_, _ = w.Write(append(bytes.Clone(body[:len(body)-1]), body[len(body)-1]^1))
			return true
		})
		if _, err := images.Pull(t.Context(), rt.Conn(), reg.host+"/"+repo, auth, 0, nil); err == nil || !strings.Contains(err.Error(), "unexpected commit digest") {
			t.Errorf("a changed %s: %v", what, err)
		}
		reg.set(nil)
		if _, err := images.Pull(t.Context(), rt.Conn(), reg.host+"/"+repo, auth, 0, nil); err != nil {
			t.Errorf("the %s, unchanged again: %v", what, err)
		}
	}
}
