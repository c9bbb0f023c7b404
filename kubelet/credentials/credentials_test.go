package credentials

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, image string
		want           bool
	}{
		{"registry.io", "registry.io/a/b:1", true},
		{"*.registry.io", "eu.registry.io/a", true},
		{"*.io", "eu.registry.io/a", false},
		{"app*.registry.io", "apple.registry.io/a", true},
		{"registry.io:8080/path", "registry.io:8080/path/x:tag", true},
		{"registry.io:8080/path", "registry.io/path/x", false},
		{"registry.io/path", "registry.io/other", false},
		{"registry.io", "registry.io:5000/a", false},
		{"registry.io/a@", "registry.io/b@sha256:00", false},
	} {
		if got := Matches(c.pattern, c.image); got != c.want {
			t.Errorf("%s for %s: %v", c.pattern, c.image, got)
		}
	}
}

// plugin writes a program that counts its runs and says what it was told.
const plugin = `#!/bin/sh
echo run >> "$COUNT"
cat > "$COUNT.in"
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"'$KEY'",
 "auth":{"*.registry.io":{"username":"wide","password":"p"},"eu.registry.io/team":{"username":"'$1'","password":"secret"},"other.io":{"username":"x","password":"y"}}}'
`

func manager(t *testing.T, key, more string) (*Manager, *clocktesting.FakePassiveClock, string) {
	t.Helper()
	dir := t.TempDir()
	count := filepath.Join(dir, "count")
	config := `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.registry.io"]
  defaultCacheDuration: 10m
  args: [narrow]
  env: [{name: COUNT, value: ` + count + `}, {name: KEY, value: ` + key + `}]
` + more
	for name, text := range map[string]string{"config.yaml": config, "plugin": plugin} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	clk := clocktesting.NewFakePassiveClock(time.Unix(1e9, 0))
	m, err := New(Config{
		File: filepath.Join(dir, "config.yaml"), BinDir: dir, Log: slog.New(slog.DiscardHandler), Clock: clk,
		Account: func(_ context.Context, p *corev1.Pod, audience string) (*corev1.ServiceAccount, string, error) {
			return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: p.Spec.ServiceAccountName, Annotations: map[string]string{"role": "reader"}}}, "token for " + audience, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, clk, count
}

func runs(t *testing.T, count string) int {
	b, err := os.ReadFile(count)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(b), "run")
}

func TestPlugin(t *testing.T) {
	m, clk, count := manager(t, "Registry", "")
	pod := &corev1.Pod{}
	got := m.For(t.Context(), pod, "eu.registry.io/team/app:1")
	if len(got) != 2 || got[0].Username != "narrow" || got[0].Password != "secret" || got[1].Username != "wide" {
		t.Errorf("%+v", got)
	}
	if b, _ := os.ReadFile(count + ".in"); !strings.Contains(string(b), `"image":"eu.registry.io/team/app:1"`) {
		t.Errorf("it was told %s", b)
	}
	if got := m.For(t.Context(), pod, "eu.registry.io/other:2"); len(got) != 1 || got[0].Username != "wide" || runs(t, count) != 1 {
		t.Errorf("%+v after %d runs", got, runs(t, count))
	}
	m.For(t.Context(), pod, "us.registry.io/x")
	if runs(t, count) != 2 {
		t.Errorf("another registry: %d runs", runs(t, count))
	}
	clk.SetTime(clk.Now().Add(11 * time.Minute))
	m.For(t.Context(), pod, "eu.registry.io/x")
	if runs(t, count) != 3 {
		t.Errorf("when the answer is old: %d runs", runs(t, count))
	}
	if got := m.For(t.Context(), pod, "docker.io/x"); len(got) != 0 || runs(t, count) != 3 {
		t.Error("asked about an image that it does not know")
	}
}

func TestServiceAccount(t *testing.T) {
	m, _, count := manager(t, "Global", `  tokenAttributes:
    serviceAccountTokenAudience: registry
    cacheType: ServiceAccount
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [role]
`)
	if got := m.For(t.Context(), &corev1.Pod{}, "eu.registry.io/x"); len(got) != 0 || runs(t, count) != 0 {
		t.Error("asked for a pod without a service account")
	}
	for _, account := range []string{"a", "b", "a"} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{ServiceAccountName: account}}
		if got := m.For(t.Context(), pod, "eu.registry.io/x"); len(got) != 1 {
			t.Errorf("%s: %+v", account, got)
		}
	}
	if runs(t, count) != 2 {
		t.Errorf("%d runs for two accounts", runs(t, count))
	}
	if b, _ := os.ReadFile(count + ".in"); !strings.Contains(string(b), `"serviceAccountToken":"token for registry","serviceAccountAnnotations":{"role":"reader"}`) {
		t.Errorf("it was told %s", b)
	}
}

func TestRefused(t *testing.T) {
	m, _, _ := manager(t, "Image", "")
	b, err := os.ReadFile(m.cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"name: plugin": "name: ../plugin", "credentialprovider.kubelet.k8s.io/v1": "credentialprovider.kubelet.k8s.io/v9",
		`["*.registry.io"]`: "[]", "defaultCacheDuration: 10m": "defaultCacheDuration: -1s", "  args": "  arguments", "kubelet.config.k8s.io/v1\n": "kubelet.config.k8s.io/v2\n",
	} {
		if err := os.WriteFile(m.cfg.File, []byte(strings.Replace(string(b), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(m.cfg); err == nil {
			t.Errorf("%s was taken", to)
		}
	}
}
