package webhooks

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/admission/match"
)

// said is a webhook's transport that answers with one text, in which the UID
// "u" is the question's.
type said string

func (s said) RoundTrip(r *http.Request) (*http.Response, error) {
	var rev admissionreviewv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&rev); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	_, _ = rec.WriteString(strings.Replace(string(s), `"uid":"u"`, `"uid":"`+string(rev.Request.UID)+`"`, 1))
	return rec.Result(), nil
}

// FuzzAnswer reads answers of mutating webhooks: each changes the object, leaves
// it, or is an error that a client understands.
func FuzzAnswer(f *testing.F) {
	b := newBench(f)
	for _, text := range []string{
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true,"patchType":"JSONPatch","patch":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL2RhdGEiLCJ2YWx1ZSI6eyJhIjoiYiJ9fV0="}}`,
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true,"patchType":"JSONPatch","patch":"W3sib3AiOiJ0ZXN0IiwicGF0aCI6IiJ9XQ==","warnings":["a\nb"],"auditAnnotations":{"":"x"}}}`,
		`{"response":{"allowed":false,"status":{"code":99,"status":"Success","reason":"x"}}}`, `{"response":null}`, ``, `[]`, `{"response":{"allowed":true,"patch":"bnVsbA=="}}`,
		`{"response":{"allowed":true,"patch":"W3sib3AiOiJyZXBsYWNlIiwicGF0aCI6IiIsInZhbHVlIjpudWxsfV0="}}`, `{"response":{"allowed":true,"patch":"W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL21ldGFkYXRhIn1d"}}`,
	} {
		f.Add(text, "v1")
		f.Add(text, "v1beta1")
	}
	f.Fuzz(func(t *testing.T, text, version string) {
		h := b.hook("h.example.com", func(w *admissionv1.MutatingWebhook) { w.AdmissionReviewVersions = []string{version, "v1beta1"} })
		a := b.attributes()
		a.Operation = admission.Create
		c, err := newCaller(&h, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.mutating, c.http = true, &http.Client{Transport: said(text)}
		w := match.New(a, b.door, b.m.cfg.Served)
		asked := &hook{MutatingWebhook: &h, uid: "h", namespaces: labels.Everything(), objects: labels.Everything(), conditions: &match.Conditions{}, client: c}
		seen, wants, err := b.m.wants(t.Context(), asked, w)
		if !wants || err != nil {
			t.Fatal(wants, err)
		}
		_, err = b.m.mutateBy(t.Context(), asked, w, seen, 0)
		var st *apierrors.StatusError
		var failed *failure
		switch {
		case err == nil:
			if cm, ok := a.Object.(*corev1.ConfigMap); !ok || cm == nil {
				t.Errorf("%s makes a %T", text, a.Object)
			}
		case errors.As(err, &failed):
		case !errors.As(err, &st) || st.ErrStatus.Code < 400:
			t.Errorf("%s: %v", text, err)
		}
	})
}
