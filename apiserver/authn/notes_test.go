package authn

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

// TestNotes: records tell of tokens that should be renewed or replaced, and of
// no others.
func TestNotes(t *testing.T) {
	w := newWorld(t)
	secret, err := w.issuer.SignLegacy(satoken.Legacy{Namespace: "ns", Secret: "s", Account: "bot", UID: string(w.sa.UID)})
	if err != nil {
		t.Fatal(err)
	}
	doortest.Put(&w.door, client.Secrets, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", Labels: map[string]string{labelLastUsed: w.now.UTC().Format(time.DateOnly)}},
		Type:       corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(secret)},
	})
	warns := func(at time.Time) string {
		c := w.claims()
		c.Kubernetes.WarnAfter = at.Unix()
		return sign(t, w.issuer, c)
	}
	for name, tc := range map[string]struct {
		token string
		want  map[string]string
	}{
		"bound":          {sign(t, w.issuer, w.claims()), nil},
		"to warn later":  {warns(w.now.Add(time.Minute)), nil},
		"stale":          {warns(w.now.Add(-424 * time.Second)), map[string]string{"authentication.k8s.io/stale-token": "subject: system:serviceaccount:ns:bot, seconds after warning threshold: 424"}},
		"in a secret":    {secret, map[string]string{"authentication.k8s.io/legacy-token": "system:serviceaccount:ns:bot"}},
		"somebody's own": {"static-token", nil},
	} {
		for range 2 { // the second time from what is remembered
			r := bearer(tc.token)
			ctx, notes := WithNotes(r.Context())
			if _, ok, err := w.auth.Authenticate(r.WithContext(ctx)); !ok || err != nil {
				t.Fatalf("%s: %v %v", name, ok, err)
			}
			if !maps.Equal(notes.All(), tc.want) {
				t.Errorf("%s: noted %v, want %v", name, notes.All(), tc.want)
			}
		}
		if _, ok, err := w.auth.Authenticate(bearer(tc.token)); !ok || err != nil { // nobody takes notes
			t.Fatalf("%s: %v %v", name, ok, err)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.counts)
	families, err := registry.Gather()
	if err != nil || len(families) != 3 {
		t.Fatal(families, err)
	}
	for _, f := range families {
		if n := f.GetMetric()[0].GetCounter().GetValue(); n != 3 {
			t.Errorf("%s is %v, want 3", f.GetName(), n)
		}
	}
}
