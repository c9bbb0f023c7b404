package apiserver_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/admission"
)

// setter is a mutating plugin that does what the object's data says.
type setter struct{}

func (setter) Name() string                                          { return "Setter" }
func (setter) Handles(admission.Operation) bool                      { return true }
func (setter) Validate(context.Context, *admission.Attributes) error { return nil }
func (setter) Admit(_ context.Context, a *admission.Attributes) error {
	m, ok := a.Object.(*corev1.ConfigMap)
	if !ok {
		return nil
	}
	for key, value := range m.Data {
		switch key {
		case "namespace":
			m.Namespace = strings.TrimPrefix(value, "-")
		case "resourceVersion":
			m.ResourceVersion = strings.TrimPrefix(value, "-")
		case "link":
			m.SelfLink = value
		case "created":
			m.CreationTimestamp = metav1.Time{}
		}
	}
	return nil
}

// What mutating admission makes of an object stays where the request is: an
// object is not moved to another namespace, nor written over a newer one.
// Upstream 1.36 answers the same.
func TestAdmissionKeepsThePlace(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) { c.Admission = []admission.Plugin{setter{}} })
	const elsewhere = "the namespace of the provided object does not match the namespace sent on the request"
	object := func(name, data string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"},"data":{` + data + `}}`
	}
	for _, name := range []string{"update", "patch"} {
		if resp, text := w.http("POST", "/api/v1/namespaces/a/configmaps", object(name, "")); resp.StatusCode != 201 {
			t.Fatal(text)
		}
	}
	for _, c := range []struct {
		name, method, path, kind, body string
		code                           int
		want                           string
	}{
		{"created elsewhere", "POST", "", "application/json", object("x", `"namespace":"b"`), 400, elsewhere},
		{"applied elsewhere", "PATCH", "/y?fieldManager=m", "application/apply-patch+yaml", object("y", `"namespace":"b"`), 400, elsewhere},
		{"updated elsewhere", "PUT", "/update", "application/json", object("update", `"namespace":"b"`), 400, elsewhere},
		{"patched elsewhere", "PATCH", "/patch", "application/merge-patch+json", `{"data":{"namespace":"b"}}`, 400, elsewhere},
		{"created nowhere", "POST", "", "application/json", object("nowhere", `"namespace":"-"`), 201, `"namespace":"a"`},
		{"updated nowhere", "PUT", "/update", "application/json", object("update", `"namespace":"-"`), 200, `"namespace":"a"`},
		{"another version", "PUT", "/update", "application/json", object("update", `"resourceVersion":"1"`), 409, "the object has been modified"},
		{"no version", "PUT", "/update", "application/json", object("update", `"resourceVersion":"-"`), 200, `"name":"update"`},
		{"another birthday", "PUT", "/update", "application/json", object("update", `"created":"x"`), 200, `"creationTimestamp":"2`},
	} {
		resp, text := w.http(c.method, "/api/v1/namespaces/a/configmaps"+c.path, c.body, "Content-Type", c.kind)
		if resp.StatusCode != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d, want %d and %q: %s", c.name, resp.StatusCode, c.code, c.want, text)
		}
	}
	if _, text := w.http("POST", "/api/v1/namespaces/a/configmaps", object("link", `"link":"x"`)); strings.Contains(text, "selfLink") {
		t.Errorf("a link to itself is kept: %s", text)
	}
	if _, text := w.http("GET", "/api/v1/namespaces/b/configmaps", ""); !strings.Contains(text, `"items":[]`) {
		t.Errorf("something was stored elsewhere: %s", text)
	}
}
