package apiserver_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// Which paths there are, and which methods they know, was compared with
// Kubernetes 1.36 for all kinds; these rows tell one rule from another. No path
// is a 404, no method a 405.
func TestRoutes(t *testing.T) {
	w := builtinWorld(t, func(c *apiserver.Config) {
		c.Extensions.Actions = map[string]apiserver.ActionFunc{"subjectaccessreviews.authorization.k8s.io": echo}
	})
	const (
		ns      = "/api/v1/namespaces/ns"
		reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
		watch   = "/api/v1/watch"
	)
	for _, tc := range []struct {
		path string
		want map[string]int // other methods: 405, or 404 if there are none
	}{
		{ns + "/configmaps", map[string]int{"GET": 200, "POST": 422, "DELETE": 200}},
		{ns + "/configmaps/", map[string]int{"GET": 200, "POST": 422, "DELETE": 200}},
		{ns + "/configmaps/a", map[string]int{"GET": 404, "PUT": 400, "PATCH": 404, "DELETE": 404}},
		{ns + "/configmaps/a//", map[string]int{"GET": 404, "PUT": 400, "PATCH": 404, "DELETE": 404}},
		{ns + "/configmaps/a/status", nil},
		{"/api/v1/configmaps", map[string]int{"GET": 200}},
		{"/api/v1/configmaps/a", nil},
		{ns + "/nodes", nil},
		{ns + "/nodes/a", nil},
		{"/api/v1/nodes/a/status/", map[string]int{"GET": 404, "PUT": 400, "PATCH": 404}},
		{"/api/v1/nodes/a/status/more", nil},
		{"/api/v1/namespaces/a/status/", map[string]int{"GET": 404, "PUT": 400, "PATCH": 404}},
		{"/api/v1/namespaces/a/finalize//", map[string]int{"PUT": 400}},
		{ns + "/nodes/a/status", nil},
		{watch + "/configmaps", map[string]int{"GET": 200}},
		{watch + "/configmaps/a", nil},
		{watch + "/namespaces/ns/configmaps/a", map[string]int{"GET": 200}},
		{watch + "/namespaces/ns/nodes", nil},
		{watch + "/nodes/a/status", nil},
		{watch + "/namespaces/ns/pods/a/log", nil},
		{ns + "/pods/a/log", map[string]int{"GET": 404}},
		{ns + "/pods/a/eviction", map[string]int{"POST": 404}},
		{ns + "/pods/a/exec/more", nil},
		{ns + "/bindings/a", nil},
		{"/api/v1/bindings", nil},
		{reviews, map[string]int{"POST": 422}},
		{reviews + "/a", nil},
		{"/apis/authorization.k8s.io/v1/namespaces/ns/subjectaccessreviews", nil},
		{"/apis/authorization.k8s.io/v1/watch/subjectaccessreviews", nil},
		{"/version", map[string]int{"GET": 200}},
		{"/api", map[string]int{"GET": 200}},
		{"/apis/apps/v1", map[string]int{"GET": 200}},
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "ODD"} {
			want, ok := tc.want[method]
			switch {
			case ok:
			case tc.want == nil:
				want = 404
			default:
				want = 405
			}
			ct := asJSON
			if method == "PATCH" {
				ct = "application/merge-patch+json"
			}
			res, body := w.http(method, tc.path+"?timeoutSeconds=1&timeout=30s&labelSelector=no%3Dsuch", strings.TrimPrefix("{}", map[bool]string{true: "{}"}[method == "GET" || method == "HEAD"]), "Content-Type", ct)
			if res.StatusCode != want {
				t.Errorf("%s %s: %d, want %d: %s", method, tc.path, res.StatusCode, want, body)
			}
			if want == 405 && method != "HEAD" && !strings.Contains(body, `"message":"the server does not allow this method on the requested resource"`) {
				t.Errorf("%s %s: %s", method, tc.path, body)
			}
		}
	}
	if res, body := w.http("POST", "/apis/apps", ""); res.StatusCode != 200 { // as upstream's aggregation layer
		t.Error("a posted group:", res.StatusCode, body)
	}
}

// echo answers a review with itself.
func echo(_ context.Context, req *client.Request) (*client.Result, error) {
	return &client.Result{Object: req.Object, Created: true}, nil
}

// Reviews are objects like others: their fields have owners, and what the server
// sets does not count.
func TestReviewsHaveOwners(t *testing.T) {
	w := builtinWorld(t, func(c *apiserver.Config) {
		c.Extensions.Actions = map[string]apiserver.ActionFunc{"subjectaccessreviews.authorization.k8s.io": echo, "localsubjectaccessreviews.authorization.k8s.io": echo}
	})
	const all, local = "/apis/authorization.k8s.io/v1/subjectaccessreviews", "/apis/authorization.k8s.io/v1/namespaces/ns/localsubjectaccessreviews"
	const spec = `"spec":{"user":"u","resourceAttributes":{"namespace":"ns","verb":"get"}}`
	owned := func(more string) string {
		return `{` + more + `"f:spec":{"f:resourceAttributes":{".":{},"f:namespace":{},"f:verb":{}},"f:user":{}}}`
	}
	for _, tc := range []struct {
		name, path, metadata, manager, fields string
		code                                  int
		message                               string
	}{
		{"plain", all, `{}`, "tool", owned(""), 201, ""},
		{"named manager", all + "?fieldManager=me", `{"managedFields":[{"manager":"x"}]}`, "me", owned(""), 201, ""},
		{"what the server sets", all, `{"uid":"1","namespace":"other","creationTimestamp":"2020-01-01T00:00:00Z"}`, "tool", owned(""), 201, ""},
		{"named", all, `{"name":"n"}`, "", "", 422, `"managedFields":[{"manager":"tool"`},
		{"in a namespace", local, `{"namespace":"ns"}`, "tool", owned(""), 201, ""},
		{"named in a namespace", local, `{"name":"n"}`, "", "", 422, `must be empty except for namespace`},
		{"in another", local, `{"namespace":"other"}`, "", "", 400, "the namespace of the provided object does not match"},
	} {
		res, body := w.http(http.MethodPost, tc.path, `{"metadata":`+tc.metadata+`,`+spec+`}`, "Content-Type", asJSON, "User-Agent", "tool/1")
		var got struct {
			Message  string
			Metadata metav1.ObjectMeta
			Spec     authorizationv1.SubjectAccessReviewSpec
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err, body)
		}
		if res.StatusCode != tc.code || !strings.Contains(got.Message, tc.message) {
			t.Errorf("%s: %d %s", tc.name, res.StatusCode, body)
			continue
		}
		if tc.code != 201 {
			continue
		}
		m := got.Metadata
		if len(m.ManagedFields) != 1 || m.ManagedFields[0].Manager != tc.manager || string(m.ManagedFields[0].FieldsV1.Raw) != tc.fields {
			t.Errorf("%s: owners %+v in %s", tc.name, m.ManagedFields, body)
		}
		if m.UID != "" || !m.CreationTimestamp.IsZero() || tc.path == all && m.Namespace != "" {
			t.Errorf("%s: metadata %+v", tc.name, m)
		}
	}
}
