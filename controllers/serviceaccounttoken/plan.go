package serviceaccounttoken

import (
	"bytes"

	corev1 "k8s.io/api/core/v1"
)

// step is what is to be done about a secret.
type step int

const (
	nothing step = iota
	fill         // write what it lacks
	remove       // its account is no more, or another one
)

// plan says what a secret of an account needs. account is nil if there is
// none; ca is the PEM bundle that goes with a token.
func plan(s *corev1.Secret, account *corev1.ServiceAccount, ca []byte) step {
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil || s.Annotations[corev1.ServiceAccountNameKey] == "" {
		return nothing
	}
	uid := s.Annotations[corev1.ServiceAccountUIDKey]
	switch {
	case account == nil, uid != "" && uid != string(account.UID):
		return remove
	case uid == "" || len(s.Data[corev1.ServiceAccountTokenKey]) == 0 ||
		string(s.Data[corev1.ServiceAccountNamespaceKey]) != s.Namespace || !bytes.Equal(s.Data[corev1.ServiceAccountRootCAKey], ca):
		return fill
	}
	return nothing
}

// filled is the secret with all that it is to hold; a token that is there
// stays.
func filled(s *corev1.Secret, account *corev1.ServiceAccount, ca []byte, token func() (string, error)) (*corev1.Secret, error) {
	s = s.DeepCopy()
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
		t, err := token()
		if err != nil {
			return nil, err
		}
		s.Data[corev1.ServiceAccountTokenKey] = []byte(t)
	}
	s.Data[corev1.ServiceAccountNamespaceKey], s.Data[corev1.ServiceAccountRootCAKey] = []byte(s.Namespace), ca
	s.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	return s, nil
}
