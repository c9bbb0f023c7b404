package kubelet

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// FuzzPullSecret: a pull secret is read or refused, and no error repeats it.
func FuzzPullSecret(f *testing.F) {
	f.Add(`{"auths":{"https://registry.example.com/v1/":{"auth":"dTpodW50ZXIy"},"*.example.com":{"username":"u","password":"hunter2"}}}`, "registry.example.com/a/b:1", false)
	f.Add(`{"index.docker.io":{"auth":"%%%"},"http://[::1":{},"a:99999/b":{"identitytoken":"hunter2"}}`, "docker.io/library/busybox", true)
	f.Add(`{"auths":[hunter2]}`, "", false)
	f.Fuzz(func(t *testing.T, text, image string, old bool) {
		s := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(text), corev1.DockerConfigKey: []byte(text)}}
		if old {
			s.Type = corev1.SecretTypeDockercfg
		}
		all, err := credentials(s, image)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells: %v", err)
		}
		for _, a := range all {
			if a == nil {
				t.Errorf("%q has empty credentials", text)
			}
		}
	})
}
