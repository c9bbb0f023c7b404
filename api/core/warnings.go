package core

import (
	"crypto/tls"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// warnings adapts a function that warns about an object; old is nil on
// create.
func warnings[T runtime.Object](f func(obj, old T) []string) func(obj, old runtime.Object) []string {
	return func(o, prev runtime.Object) []string {
		var old T
		if prev != nil {
			old = prev.(T)
		}
		return f(o.(T), old)
	}
}

func secretWarnings(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	// A pair that does not fit is accepted but hardly meant.
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// Annotation upstream has given up enforcing by and by.
const enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"

func serviceAccountWarnings(s, old *corev1.ServiceAccount) []string {
	_, has := s.Annotations[enforceMountableSecrets]
	if old != nil {
		if _, had := old.Annotations[enforceMountableSecrets]; had {
			return nil
		}
	}
	if has {
		return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", enforceMountableSecrets)}
	}
	return nil
}
