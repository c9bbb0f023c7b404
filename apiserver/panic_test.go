package apiserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// withHook puts a hook on ConfigMaps.
func withHook(begin func(ctx context.Context, req *client.Request, obj, old runtime.Object) (func(bool), error)) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		c.Extensions.Hooks = map[schema.GroupResource]apiserver.Hook{{Resource: "configmaps"}: {Begin: begin}}
	}
}

func TestPanicsStayInTheirRequest(t *testing.T) {
	w := newWorld(t, withHook(func(_ context.Context, _ *client.Request, obj, _ runtime.Object) (func(bool), error) {
		if obj == nil {
			panic("on delete")
		}
		return nil, nil
	}))
	r := client.ConfigMaps.In(w.local, "default")
	if _, err := r.Create(t.Context(), configMap("default", "a", nil)); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "a", client.Options{}); !apierrors.IsInternalError(err) {
		t.Error(err)
	}
	if err := r.DeleteCollection(t.Context(), client.Options{}); !apierrors.IsInternalError(err) {
		t.Error(err)
	}
	if resp, body := w.http(http.MethodDelete, cmPath+"/a", ""); resp.StatusCode != 500 || !strings.Contains(body, "InternalError") {
		t.Error(resp.StatusCode, body)
	}
	if _, err := r.Get(t.Context(), "a"); err != nil {
		t.Error("the server did not survive:", err)
	}
}

// TestHooks: what a hook reserved is kept once the write is in, else undone.
func TestHooks(t *testing.T) {
	var ends []bool
	w := newWorld(t, withHook(func(_ context.Context, _ *client.Request, obj, _ runtime.Object) (func(bool), error) {
		return func(committed bool) { ends = append(ends, committed) }, nil
	}))
	r := client.ConfigMaps.In(w.local, "default")
	for _, tt := range []struct {
		name string
		do   func() error
		want bool
		fail bool
	}{
		{"create", func() error { _, err := r.Create(t.Context(), configMap("default", "a", nil)); return err }, true, false},
		{"create taken", func() error { _, err := r.Create(t.Context(), configMap("default", "a", nil)); return err }, false, true},
		{"create refused", func() error {
			_, err := r.Create(t.Context(), configMap("default", "b", map[string]string{"invalid": "x"}))
			return err
		}, false, true},
		{"create dry", func() error {
			_, err := r.Create(t.Context(), configMap("default", "b", nil), client.WithOptions(client.Options{DryRun: true}))
			return err
		}, false, false},
		{"update", func() error {
			_, err := r.Update(t.Context(), configMap("default", "a", map[string]string{"k": "v"}))
			return err
		}, true, false},
		{"delete", func() error { return r.Delete(t.Context(), "a", client.Options{}) }, true, false},
	} {
		ends = nil
		if err := tt.do(); (err != nil) != tt.fail {
			t.Errorf("%s: %v", tt.name, err)
		}
		if len(ends) == 0 || ends[len(ends)-1] != tt.want {
			t.Errorf("%s ended %v, want %v", tt.name, ends, tt.want)
		}
		for _, e := range ends[:max(len(ends)-1, 0)] {
			if e {
				t.Errorf("%s: a try that was given up counts as committed: %v", tt.name, ends)
			}
		}
	}
}

// TestTimeout: a request that takes too long is answered with a 504, and so is
// one that asks for less time than anything takes, whatever it is for.
func TestTimeout(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) { c.RequestTimeout = 20 * time.Millisecond },
		withHook(func(ctx context.Context, _ *client.Request, _, _ runtime.Object) (func(bool), error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	resp, body := w.http(http.MethodPost, cmPath, `{"metadata":{"name":"slow"}}`, "Content-Type", asJSON)
	const over = `{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}`
	if resp.StatusCode != http.StatusGatewayTimeout || strings.TrimSpace(body) != over || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Error(resp.StatusCode, resp.Header, body)
	}
	for path, want := range map[string]int{cmPath + "?timeout=1ns": 504, cmPath + "/a?timeout=1ns": 504, "/version?timeout=1ns": 504, "/version?timeout=0s": 200} {
		if resp, body := w.http(http.MethodGet, path, ""); resp.StatusCode != want || want == 504 && strings.TrimSpace(body) != over {
			t.Error(path, resp.StatusCode, body)
		}
	}
}
