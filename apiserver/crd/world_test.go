package crd_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/version"
	kjson "sigs.k8s.io/json"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/crd"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
)

// world is a whole API server that serves custom resources, asked as kubectl
// asks.
type world struct {
	t    testing.TB
	url  string
	srv  *apiserver.Server
	mgr  *crd.Manager
	etcd *etcd.Server
}

var masters = client.User{Name: "system:apiserver", Groups: []string{"system:masters"}}

func newWorld(t testing.TB) *world {
	t.Helper()
	e, err := etcd.Start(context.Background(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return serve(t, e)
}

// serve starts a server on a store that may have been used before.
func serve(t testing.TB, e *etcd.Server) *world {
	t.Helper()
	tab, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	sc := store.Config{Backend: e, Table: tab, CompactEvery: -1}
	if _, bench := t.(*testing.B); !bench { // it is not what is measured
		sc.Mutated = func(text string) { t.Errorf("shared object changed: %s", text) }
	}
	st, err := store.New(sc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.CheckMutations(); _ = st.Close() })
	w := &world{t: t, etcd: e}
	var docs http.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.mgr.OpenAPI().ServeHTTP(rw, r) })
	w.srv, err = apiserver.New(apiserver.Config{
		Table: tab, Store: func(k *api.Kind) store.Interface { return st.Kind(k) }, OpenAPI: docs,
		Version: version.Info{Major: "1", Minor: "36", GitVersion: "v1.36.2+cox"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.mgr = crd.New(crd.Config{Door: client.As(w.srv.Door(), masters), Server: w.srv, Forget: st.Forget})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.mgr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the manager ended: %v", err)
		}
	})
	ts := httptest.NewServer(w.srv)
	t.Cleanup(ts.Close)
	w.url = ts.URL
	select {
	case <-w.mgr.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("definitions were not read")
	}
	return w
}

// do sends a request and returns the code and the body. A header is
// "Name: value".
func (w *world) do(method, path, body string, header ...string) (int, string, http.Header) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// ok sends a request that has to succeed and returns the object.
func (w *world) ok(method, path, body string, header ...string) *unstructured.Unstructured {
	w.t.Helper()
	code, text, _ := w.do(method, path, body, header...)
	if code >= 300 {
		w.t.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &u.Object); err != nil {
		w.t.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
	return u
}

// refused sends a request that has to fail with a code and a message that
// contains each of the texts.
func (w *world) refused(code int, texts []string, method, path, body string, header ...string) {
	w.t.Helper()
	got, text, _ := w.do(method, path, body, header...)
	if got != code {
		w.t.Errorf("%s %s: %d, want %d: %s", method, path, got, code, text)
		return
	}
	var st struct{ Message string }
	_ = json.Unmarshal([]byte(text), &st)
	for _, want := range texts {
		if !strings.Contains(st.Message, want) {
			w.t.Errorf("%s %s: message %q lacks %q", method, path, st.Message, want)
		}
	}
}

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// define creates a definition and waits until it is established, or until its
// names are refused.
func (w *world) define(body string) *unstructured.Unstructured {
	w.t.Helper()
	d := w.ok("POST", definitionsPath, body)
	return w.until(definitionsPath+"/"+d.GetName(), func(u *unstructured.Unstructured) bool {
		return condition(u, "NamesAccepted") != ""
	})
}

// condition is the status of a condition with its reason.
func condition(u *unstructured.Unstructured, name string) string {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range list {
		if m := c.(map[string]any); m["type"] == name {
			return m["status"].(string) + " " + m["reason"].(string)
		}
	}
	return ""
}

// until reads an object until it is as wanted; nil for one that is gone.
func (w *world) until(path string, done func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		code, text, _ := w.do("GET", path, "")
		var u *unstructured.Unstructured
		if code == 200 {
			u = &unstructured.Unstructured{}
			if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &u.Object); err != nil {
				w.t.Fatal(err)
			}
		}
		if (u != nil || code == 404) && done(u) {
			return u
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s never became as wanted: %d %s", path, code, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
