package webhooks

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/callout"
)

// A webhook is shown the credential that the configuration of admission has for
// its host and port.
func TestCredentialsOfWebhooks(t *testing.T) {
	var got string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		var rev admissionreviewv1.AdmissionReview
		_ = json.NewDecoder(r.Body).Decode(&rev)
		rev.Response = &admissionreviewv1.AdmissionResponse{UID: rev.Request.UID, Allowed: true}
		_ = json.NewEncoder(w).Encode(&rev)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "https://")
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte("users: [{name: \""+host+"\", user: {token: secret}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	users, err := callout.OpenUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	url := srv.URL + "/x"
	hook := &admissionv1.MutatingWebhook{Name: "h", AdmissionReviewVersions: []string{"v1"}, ClientConfig: admissionv1.WebhookClientConfig{
		URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}),
	}}
	for want, users := range map[string]*callout.Users{"Bearer secret": users, "": nil} {
		c, err := newCaller(hook, nil, users)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		rev := &admissionreviewv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionreviewv1.AdmissionRequest{UID: "1"},
		}
		if _, err := c.ask(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
