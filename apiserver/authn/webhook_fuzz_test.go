package authn

import (
	"encoding/json"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// FuzzWebhookAnswer reads a token webhook's answer: who is let in has a name,
// and is meant for an audience that was asked for.
func FuzzWebhookAnswer(f *testing.F) {
	for _, text := range []string{
		`{"status":{"authenticated":true,"user":{"username":"ann","uid":"1","groups":["a",""],"extra":{"k":["v"],"n":null}},"audiences":["me","x"]}}`,
		`{"status":{"authenticated":true,"user":{"username":""}}}`, `{"status":{"authenticated":false,"error":"no","user":{"username":"ann"}}}`,
		`{"status":{"authenticated":true,"user":{"username":"ann"},"audiences":["other"]}}`, `{"status":{"authenticated":true,"user":{"username":"ann"}}}`, `{}`, `null`,
	} {
		f.Add([]byte(text), "me")
		f.Add([]byte(text), "")
	}
	f.Fuzz(func(t *testing.T, text []byte, own string) {
		var answer authenticationv1.TokenReview
		if json.Unmarshal(text, &answer) != nil {
			return
		}
		w := &Webhook{}
		if own != "" {
			w.cfg.Audiences = []string{own}
		}
		for _, asked := range [][]string{nil, {"me"}, {own, "me"}} {
			v, err := w.verdict(&answer.Status, asked)
			if err != nil || v.res == nil {
				continue
			}
			if !answer.Status.Authenticated || v.res.User.Name == "" || len(asked) > 0 && len(v.res.Audiences) == 0 {
				t.Errorf("%s: %+v", text, v.res)
			}
			for _, a := range v.res.Audiences {
				if !slices.Contains(asked, a) {
					t.Errorf("%s is for %q, asked was for %q", text, a, asked)
				}
			}
		}
	})
}
