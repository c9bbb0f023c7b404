package apiserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// An eviction is read in every version that clients send it in.
func TestEvictionBodies(t *testing.T) {
	var got *policyv1.Eviction
	w := builtinWorld(t, func(c *apiserver.Config) {
		c.Extensions.Actions = map[string]apiserver.ActionFunc{"pods/eviction": func(_ context.Context, req *client.Request) (*client.Result, error) {
			got, _ = req.Object.(*policyv1.Eviction)
			return &client.Result{Created: true, Object: &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}}, nil
		}}
	})
	for _, tc := range []struct{ contentType, body, refusal string }{
		{asJSON, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":7}}`, ""},
		{asJSON, `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":7}}`, ""},
		{"application/yaml", "apiVersion: policy/v1beta1\nkind: Eviction\nmetadata: {name: p}\ndeleteOptions: {gracePeriodSeconds: 7}\n", ""},
		{asJSON, `{"metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":7}}`, ""},
		{asJSON, `{"apiVersion":"policy/v2","kind":"Eviction","metadata":{"name":"p"}}`, "policy/v2"},
		{asJSON, `{"apiVersion":"policy/v1beta1","kind":"PodDisruptionBudget","metadata":{"name":"p"}}`, "policy/v1beta1"},
		{asJSON, `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"p"},"more":1}`, `Eviction in version \"v1beta1\" cannot be handled as a Eviction: strict decoding error: unknown field \"more\"`},
	} {
		got = nil
		res, answer := w.http(http.MethodPost, "/api/v1/namespaces/default/pods/p/eviction?fieldValidation=Strict", tc.body, "Content-Type", tc.contentType)
		if tc.refusal != "" {
			if res.StatusCode != http.StatusBadRequest || got != nil || !strings.Contains(answer, tc.refusal) {
				t.Errorf("%s: %d %s", tc.body, res.StatusCode, answer)
			}
			continue
		}
		if res.StatusCode != http.StatusCreated || got == nil || got.Name != "p" || got.DeleteOptions == nil || *got.DeleteOptions.GracePeriodSeconds != 7 {
			t.Errorf("%s: %d %s, read as %+v", tc.body, res.StatusCode, answer, got)
		}
	}
}
