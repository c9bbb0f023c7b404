package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// undecided allows bob to impersonate joe and read pods, and cannot say what
// eve may.
type undecided struct{}

func (undecided) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	switch {
	case a.User.Name == "eve":
		return authz.NoOpinion, "", errors.New("https://secret.example is away")
	case strings.HasPrefix(a.Verb, "impersonate") && a.Name != "joe":
		return authz.NoOpinion, "not him", nil
	}
	return authz.Allow, "because", nil
}

// What ends before it reaches a resource is recorded too, and so is who
// decided, and why.
func TestRefusalsAndDecisionsAreRecorded(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) {
		c.Authz = undecided{}
		c.Authn = authn.Union(nil, authn.Func(func(r *http.Request) (client.User, bool, error) {
			name := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if name == "wrong-secret" {
				return client.User{}, false, errors.New("bad")
			}
			return client.User{Name: name}, name != "", nil
		}))
	})
	srv := httptest.NewServer(w.srv)
	defer srv.Close()
	const pods = "/api/v1/namespaces/ns/pods/a"
	for _, tc := range []struct {
		name, token, as, path, message string
		code                           int32
		decision, reason               string
	}{
		{"nobody", "", "", pods, "Unauthorized", 401, "", ""},
		{"wrong", "wrong-secret", "", "/metrics", "Unauthorized", 401, "", ""},
		{"as another", "bob", "ann", pods, `pods "a" is forbidden: User "bob" cannot impersonate-on:user-info:get resource "pods" in API group "" in the namespace "ns": not him`, 403, "", ""},
		{"allowed", "bob", "joe", "/version", "", 200, "allow", "because"},
		{"allowed pod", "bob", "", pods, `pods "a" not found`, 404, "allow", "because"},
		{"undecided", "eve", "", pods, "Internal error occurred: the request could not be authorized", 500, "", "internal error"},
	} {
		w.events.take()
		req, err := http.NewRequest(http.MethodGet, srv.URL+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			req.Header.Set("Authorization", "Bearer "+tc.token)
		}
		if tc.as != "" {
			req.Header.Set("Impersonate-User", tc.as)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != int(tc.code) || strings.Contains(string(body), "secret") {
			t.Errorf("%s: %d %s", tc.name, res.StatusCode, body)
		}
		ev := w.events.last()
		stage, sniffed := auditv1.StageResponseComplete, ""
		if tc.code == 401 {
			stage = auditv1.StageResponseStarted // the only one that such records have
		}
		if tc.code == 403 || tc.code == 500 {
			sniffed = "nosniff"
		}
		if got := res.Header.Get("X-Content-Type-Options"); got != sniffed {
			t.Errorf("%s: X-Content-Type-Options %q", tc.name, got)
		}
		if ev == nil || ev.Stage != stage || ev.ResponseStatus.Code != tc.code || ev.ResponseStatus.Message != tc.message {
			t.Errorf("%s: recorded %+v", tc.name, ev)
			continue
		}
		if d, r := ev.Annotations["authorization.k8s.io/decision"], ev.Annotations["authorization.k8s.io/reason"]; d != tc.decision || r != tc.reason {
			t.Errorf("%s: recorded decision %q, %q", tc.name, d, r)
		}
		if resource := tc.path == pods; resource != (ev.ObjectRef != nil) || resource && (ev.ObjectRef.Resource != "pods" || ev.ObjectRef.Name != "a") {
			t.Errorf("%s: recorded object %+v", tc.name, ev.ObjectRef)
		}
		if (tc.name == "allowed") != (ev.ImpersonatedUser != nil) || tc.token != "" && tc.code != 401 && ev.User.Username != tc.token {
			t.Errorf("%s: recorded user %+v as %+v", tc.name, ev.User, ev.ImpersonatedUser)
		}
	}
}

// granted allows bob what it names, and everyone else everything.
type granted map[string]bool

func (g granted) Authorize(_ context.Context, a *authz.Attributes) (authz.Decision, string, error) {
	if a.User.Name != "bob" || g[a.Verb+" "+a.Group+"/"+a.Resource+"/"+a.Name] {
		return authz.Allow, "", nil
	}
	return authz.NoOpinion, "", nil
}

// A constrained impersonation takes both of its permissions, and is recorded as
// such; one that knows no bounds takes neither.
func TestConstrainedImpersonation(t *testing.T) {
	const (
		whom = "impersonate:user-info authentication.k8s.io/users/joe"
		what = "impersonate-on:user-info:get /pods/a"
		all  = "impersonate /users/joe"
	)
	for name, tc := range map[string]struct {
		may              granted
		code             int
		text, constraint string
	}{
		"nothing":       {granted{}, 403, `User \"bob\" cannot impersonate-on:user-info:get resource \"pods\" in API group \"\" in the namespace \"ns\"`, ""},
		"only to be":    {granted{whom: true}, 403, `cannot impersonate-on:user-info:get`, ""},
		"only to do":    {granted{what: true}, 403, `users.authentication.k8s.io \"joe\" is forbidden: User \"bob\" cannot impersonate:user-info resource \"users\"`, ""},
		"for another":   {granted{whom: true, "impersonate-on:serviceaccount:get /pods/a": true}, 403, `cannot impersonate-on:user-info:get`, ""},
		"both":          {granted{whom: true, what: true}, 404, `pods \"a\" not found`, "impersonate:user-info"},
		"without bound": {granted{all: true}, 404, `pods \"a\" not found`, ""},
		"everything":    {granted{all: true, whom: true, what: true}, 404, `pods \"a\" not found`, "impersonate:user-info"},
	} {
		w := newWorld(t, func(c *apiserver.Config) { c.Authz = tc.may })
		res, body := w.http(http.MethodGet, "/api/v1/namespaces/ns/pods/a", "", "X-Test-User", "bob", "Impersonate-User", "joe")
		if res.StatusCode != tc.code || !strings.Contains(body, tc.text) {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
		ev, got := w.events.last(), ""
		if ev.AuthenticationMetadata != nil {
			got = ev.AuthenticationMetadata.ImpersonationConstraint
		}
		if got != tc.constraint || ev.User.Username != "bob" || (ev.ImpersonatedUser != nil) != (tc.code == 404) {
			t.Errorf("%s: recorded %+v", name, ev)
		}
		decision, mode := "denied", ""
		if tc.code == 404 {
			decision, mode = "allowed", strings.TrimPrefix(tc.constraint, "impersonate:")
			if mode == "" {
				mode = "legacy"
			}
		}
		if _, text := w.http(http.MethodGet, "/metrics", ""); !strings.Contains(text, fmt.Sprintf("apiserver_impersonation_attempts_total{decision=%q,mode=%q} 1", decision, mode)) {
			t.Errorf("%s: not counted as %s", name, decision)
		}
	}
}

// In strict mode nothing happens that is not recorded.
func TestStrictAudit(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) { c.Audit.Strict() })
	srv := httptest.NewServer(w.srv)
	defer srv.Close()
	for _, fails := range []bool{false, true} {
		w.events.fail(fails)
		for _, path := range []string{"/version", "/api/v1/namespaces"} {
			res, err := http.Get(srv.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if want := map[bool]int{false: 200, true: 500}[fails]; res.StatusCode != want {
				t.Errorf("%s, failing %v: %d", path, fails, res.StatusCode)
			}
		}
	}
}
