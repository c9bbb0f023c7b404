package authn

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/client"
)

// target is a kubeconfig's way to a test server.
func target(t *testing.T, url string) *callout.Target {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("clusters: [{name: c, cluster: {server: '%s', insecure-skip-tls-verify: true}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n", url)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := callout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

func TestWebhook(t *testing.T) {
	var asked atomic.Int32
	var mu sync.Mutex
	status := authenticationv1.TokenReviewStatus{}
	code := 200
	set := func(c int, st authenticationv1.TokenReviewStatus) {
		mu.Lock()
		defer mu.Unlock()
		status, code = st, c
		asked.Store(0)
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.APIVersion != "authentication.k8s.io/v1beta1" || in.Kind != "TokenReview" || !strings.HasPrefix(in.Spec.Token, "t") {
			t.Errorf("asked %+v, %v", in, err)
		}
		asked.Add(1)
		mu.Lock()
		defer mu.Unlock()
		in.Status = status
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(in)
	}))
	defer srv.Close()
	var clock atomic.Int64
	w, err := NewWebhook(WebhookConfig{
		Target: target(t, srv.URL), Version: "v1beta1", TTL: time.Minute, Audiences: []string{"api"},
		Now: func() time.Time { return time.Unix(clock.Load(), 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ann := authenticationv1.UserInfo{Username: "ann", UID: "7", Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
	wantAnn := client.User{Name: "ann", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}

	set(200, authenticationv1.TokenReviewStatus{Authenticated: true, User: ann})
	for range 3 {
		res, ok, err := w.AuthenticateToken(t.Context(), "t1", nil)
		if err != nil || !ok || !reflect.DeepEqual(res.User, wantAnn) || !reflect.DeepEqual(res.Audiences, []string{"api"}) {
			t.Fatalf("got %+v %v %v", res, ok, err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times within the time to live", asked.Load())
	}
	// The verdict on one token says nothing of others, nor for others.
	set(200, authenticationv1.TokenReviewStatus{})
	for _, tc := range []struct {
		token string
		auds  []string
	}{{"t2", nil}, {"t1", []string{"vault"}}} {
		if res, ok, err := w.AuthenticateToken(t.Context(), tc.token, tc.auds); ok || err != nil {
			t.Errorf("%v: got %+v %v %v", tc, res, ok, err)
		}
	}
	// It ends.
	clock.Add(60)
	if _, ok, _ := w.AuthenticateToken(t.Context(), "t1", nil); ok {
		t.Error("remembered for too long")
	}
	for name, tc := range map[string]struct {
		code   int
		status authenticationv1.TokenReviewStatus
		auds   []string
		ok     bool
		why    string
		asks   int32 // in two requests
	}{
		"unknown":           {200, authenticationv1.TokenReviewStatus{}, nil, false, "", 1},
		"refused":           {200, authenticationv1.TokenReviewStatus{Error: "expired"}, nil, false, "expired", 1},
		"trouble":           {500, authenticationv1.TokenReviewStatus{Authenticated: true, User: ann}, nil, false, "500", 2},
		"no name":           {200, authenticationv1.TokenReviewStatus{Authenticated: true}, nil, false, "names no user", 2},
		"other audience":    {200, authenticationv1.TokenReviewStatus{Authenticated: true, User: ann, Audiences: []string{"x"}}, nil, false, "", 1},
		"asked audience":    {200, authenticationv1.TokenReviewStatus{Authenticated: true, User: ann, Audiences: []string{"x", "y"}}, []string{"y"}, true, "", 1},
		"knows no audience": {200, authenticationv1.TokenReviewStatus{Authenticated: true, User: ann}, []string{"y"}, false, "", 1},
	} {
		set(tc.code, tc.status)
		for range 2 {
			_, ok, err := w.AuthenticateToken(t.Context(), "t"+name, tc.auds)
			if ok != tc.ok || (err != nil) != (tc.why != "") || err != nil && !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%s: got %v, %v", name, ok, err)
			}
			if err != nil && strings.Contains(err.Error(), "t"+name) {
				t.Errorf("%s: the error quotes the token", name)
			}
		}
		if asked.Load() != tc.asks {
			t.Errorf("%s: asked %d times", name, asked.Load())
		}
	}
	srv.Close()
	if _, ok, err := w.AuthenticateToken(t.Context(), "t9", nil); ok || err == nil || errors.Is(err, ErrInvalidToken) {
		t.Errorf("no server: %v, %v", ok, err)
	}
}
