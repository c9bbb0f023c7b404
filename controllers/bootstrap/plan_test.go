package bootstrap

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Unix(1e9, 0)

func token(change ...func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: secretType, Data: map[string][]byte{
		"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true"),
	}}
	for _, f := range change {
		f(s)
	}
	return s
}

func set(k, v string) func(*corev1.Secret) {
	return func(s *corev1.Secret) { s.Data[k] = []byte(v) }
}

func TestSigningToken(t *testing.T) {
	for name, tc := range map[string]struct {
		s  *corev1.Secret
		ok bool
	}{
		"good":                 {token(), true},
		"not for signing":      {token(set("usage-bootstrap-signing", "false")), false},
		"of another name":      {token(func(s *corev1.Secret) { s.Name = "bootstrap-token-zzzzzz" }), false},
		"in another namespace": {token(func(s *corev1.Secret) { s.Namespace = "default" }), false},
		"of another type":      {token(func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), false},
		"good for a while":     {token(set("expiration", now.Add(time.Hour).Format(time.RFC3339))), true},
		"expired":              {token(set("expiration", now.Add(-time.Hour).Format(time.RFC3339))), false},
		"expires who knows":    {token(set("expiration", "tomorrow")), false},
	} {
		if _, _, ok := signingToken(tc.s, now); ok != tc.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

func TestSigned(t *testing.T) {
	info := &corev1.ConfigMap{Data: map[string]string{"kubeconfig": "the kubeconfig", "jws-kubeconfig-gone": "x", "other": "stays"}}
	out, err := signed(info, map[string]string{"abcdef": "0123456789abcdef"})
	if err != nil || out == nil {
		t.Fatalf("%v %v", out, err)
	}
	sig := out.Data["jws-kubeconfig-abcdef"]
	if out.Data["other"] != "stays" || out.Data["jws-kubeconfig-gone"] != "" {
		t.Fatalf("%v", out.Data)
	}
	// Computed by another implementation.
	if want := "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..VtD0SDOIoGDpDRUz25Vvagnkxc7CsbPjwpYV_GY-OcQ"; sig != want {
		t.Errorf("got  %s\nwant %s", sig, want)
	}
	if again, err := signed(out, map[string]string{"abcdef": "0123456789abcdef"}); again != nil || err != nil {
		t.Errorf("signed twice: %v %v", again, err)
	}
	if none, err := signed(&corev1.ConfigMap{}, nil); none != nil || err != nil {
		t.Errorf("%v %v", none, err)
	}
}
