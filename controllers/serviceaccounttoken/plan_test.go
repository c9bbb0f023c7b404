package serviceaccounttoken

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func secret(change func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "bot", corev1.ServiceAccountUIDKey: "u1"}},
		Type:       corev1.SecretTypeServiceAccountToken,
		Data:       map[string][]byte{"token": []byte("t"), "namespace": []byte("ns"), "ca.crt": []byte("CA")},
	}
	if change != nil {
		change(s)
	}
	return s
}

var bot = &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bot", UID: "u1"}}

func TestPlan(t *testing.T) {
	for name, tc := range map[string]struct {
		s    *corev1.Secret
		a    *corev1.ServiceAccount
		want step
	}{
		"all there":       {secret(nil), bot, nothing},
		"new":             {secret(func(s *corev1.Secret) { s.Data = nil; delete(s.Annotations, corev1.ServiceAccountUIDKey) }), bot, fill},
		"no token":        {secret(func(s *corev1.Secret) { delete(s.Data, "token") }), bot, fill},
		"another CA":      {secret(func(s *corev1.Secret) { s.Data["ca.crt"] = []byte("old") }), bot, fill},
		"no namespace":    {secret(func(s *corev1.Secret) { delete(s.Data, "namespace") }), bot, fill},
		"no account":      {secret(nil), nil, remove},
		"another account": {secret(func(s *corev1.Secret) { s.Annotations[corev1.ServiceAccountUIDKey] = "u0" }), bot, remove},
		"of another type": {secret(func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), nil, nothing},
		"ending":          {secret(func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{} }), nil, nothing},
	} {
		if got := plan(tc.s, tc.a, []byte("CA")); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
		if tc.want != fill {
			continue
		}
		before := tc.s.DeepCopy()
		out, err := filled(tc.s, tc.a, []byte("CA"), func() (string, error) { return "minted", nil })
		if err != nil || plan(out, tc.a, []byte("CA")) != nothing {
			t.Errorf("%s: filled is %+v, %v", name, out, err)
		}
		if had := string(before.Data["token"]); had != "" && string(out.Data["token"]) != had {
			t.Errorf("%s: the token was replaced", name)
		}
		if len(tc.s.Data) != len(before.Data) || len(tc.s.Annotations) != len(before.Annotations) {
			t.Errorf("%s: the shared secret was changed", name)
		}
	}
}
