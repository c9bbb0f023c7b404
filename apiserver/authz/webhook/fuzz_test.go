package webhook

import (
	"encoding/json"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/coxswain/cox/apiserver/authz"
)

// FuzzAnswer reads a webhook's answer: it allows only what it says that it
// allows, and does not also deny.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		`{"status":{"allowed":true}}`, `{"status":{"allowed":false,"denied":true,"reason":"no"}}`, `{"status":{"allowed":true,"denied":true}}`,
		`{"status":{"allowed":false,"evaluationError":"x"}}`, `{"status":null}`, `{"status":[]}`, `{}`, `null`, `{"status":{"Allowed":true}}`, `{"status":{"allowed":false,"allowed":true}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var answer struct {
			Status *authorizationv1.SubjectAccessReviewStatus `json:"status"`
		}
		if json.Unmarshal(text, &answer) != nil {
			return
		}
		v, err := decide(answer.Status)
		allowed := err == nil && v.decision == authz.Allow
		if want := answer.Status != nil && answer.Status.Allowed && !answer.Status.Denied; allowed != want {
			t.Errorf("%s: %v, %v", text, v.decision, err)
		}
	})
}
