package credentials

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// FuzzAnswer reads what a plugin prints: it is refused, or gives credentials
// for the image's own registry only.
func FuzzAnswer(f *testing.F) {
	const head = `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",`
	f.Add([]byte(head+`"cacheKeyType":"Image","cacheDuration":"5m","auth":{"*.registry.io":{"username":"u","password":"p"},"":{},"*":{},"[":{},"eu.registry.io:443/team":{"username":"u"}}}`), "eu.registry.io/team/app:1")
	f.Add([]byte(head+`"cacheDuration":"-1h","auth":null}`), "localhost:5000/a@sha256:00")
	f.Add([]byte(`{"kind":1}`), "")
	f.Add([]byte(head+`"auth":{"https://[::1]:5000/a":{},"http://registry.io/%zz":{}}}`), "[::1]:5000/a/b")
	f.Fuzz(func(t *testing.T, text []byte, image string) {
		res, err := read(text)
		if err != nil {
			return
		}
		for _, a := range matching(res.Auth, image, nil) {
			if _, ok := res.Auth[a.Pattern]; !ok || !Matches(a.Pattern, image) || Matches(a.Pattern, "other.invalid:1/x") {
				t.Errorf("%q is for %q", a.Pattern, image)
			}
		}
	})
}

// TestPluginLeavesAChild: a plugin that has ended has answered, though what it
// left running holds its output.
func TestPluginLeavesAChild(t *testing.T) {
	m, _, count := manager(t, "Registry", "")
	// It ends with the test's folder.
	text := plugin + "(while [ -d " + t.TempDir() + " ]; do sleep 0.1; done) &\n"
	if err := os.WriteFile(filepath.Join(filepath.Dir(count), "plugin"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got := m.For(ctx, &corev1.Pod{}, "eu.registry.io/team/app:1"); len(got) != 2 || ctx.Err() != nil {
		t.Errorf("%v, %v", got, ctx.Err())
	}
}
