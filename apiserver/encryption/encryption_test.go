package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/reloads"
)

var secrets = schema.GroupResource{Resource: "secrets"}

const (
	key1 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	key2 = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

// config writes a configuration of one rule.
func config(t *testing.T, path, resources, providers string) {
	t.Helper()
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: " + resources + "\n  providers:\n" + providers
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func keyed(kind string, pairs ...string) string {
	out := "  - " + kind + ":\n      keys:\n"
	for i := 0; i < len(pairs); i += 2 {
		out += fmt.Sprintf("      - {name: %s, secret: %s}\n", pairs[i], pairs[i+1])
	}
	return out
}

func open(t *testing.T, path string, reload bool) *Encryption {
	t.Helper()
	e, err := Open(t.Context(), Config{Path: path, Reload: reload, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.current.Load().close() })
	return e
}

const at = "/registry/secrets/ns/a"

func write(t *testing.T, e *Encryption, gr schema.GroupResource, text string) []byte {
	t.Helper()
	out, err := e.Transformer(gr).ToStorage(t.Context(), []byte(text), at)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// read returns what is stored and whether it is stale.
func read(t *testing.T, e *Encryption, gr schema.GroupResource, data []byte) (string, bool) {
	t.Helper()
	out, stale, err := e.Transformer(gr).FromStorage(t.Context(), data, at)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), stale
}

func TestProviders(t *testing.T) {
	for _, tc := range []struct {
		kind, prefix string
		// bound: a value moved to another key is found out.
		bound bool
	}{
		{"aescbc", "k8s:enc:aescbc:v1:k1:", false},
		{"aesgcm", "k8s:enc:aesgcm:v1:k1:", true},
		{"secretbox", "k8s:enc:secretbox:v1:k1:", false},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c")
			config(t, path, "[secrets]", keyed(tc.kind, "k1", key1)+"  - identity: {}\n")
			e := open(t, path, false)
			data := write(t, e, secrets, "text")
			if !bytes.HasPrefix(data, []byte(tc.prefix)) || bytes.Contains(data, []byte("text")) {
				t.Fatalf("stored as %q", data)
			}
			if bytes.Equal(data, write(t, e, secrets, "text")) {
				t.Error("two writes give the same bytes")
			}
			if got, stale := read(t, e, secrets, data); got != "text" || stale {
				t.Errorf("got %q, stale %v", got, stale)
			}
			if got, stale := read(t, e, secrets, []byte("k8s\x00old")); got != "k8s\x00old" || !stale {
				t.Errorf("from before encryption: got %q, stale %v", got, stale)
			}
			if _, _, err := e.Transformer(secrets).FromStorage(t.Context(), data, at+"b"); tc.bound && err == nil {
				t.Error("read from a place where it was not written")
			}
			if _, _, err := e.Transformer(secrets).FromStorage(t.Context(), data[:len(data)-1], at); err == nil {
				t.Error("read a value that was cut")
			}

			// Rotated: the new key writes, the old one still reads.
			config(t, path, "[secrets]", keyed(tc.kind, "k2", key2, "k1", key1))
			e = open(t, path, false)
			if got, stale := read(t, e, secrets, data); got != "text" || !stale {
				t.Errorf("under the old key: got %q, stale %v", got, stale)
			}
			if data := write(t, e, secrets, "x"); !bytes.HasPrefix(data, []byte(strings.Replace(tc.prefix, "k1", "k2", 1))) {
				t.Errorf("written with another key: %q", data)
			}
			// Turned off: identity first, the provider reads.
			config(t, path, "[secrets]", "  - identity: {}\n"+keyed(tc.kind, "k1", key1))
			e = open(t, path, false)
			if got, stale := read(t, e, secrets, data); got != "text" || !stale {
				t.Errorf("turned off: got %q, stale %v", got, stale)
			}
			if data := write(t, e, secrets, "text"); string(data) != "text" {
				t.Errorf("turned off: written as %q", data)
			}
			// The key is lost.
			config(t, path, "[secrets]", keyed(tc.kind, "k1", key2)+"  - identity: {}\n")
			e = open(t, path, false)
			if out, _, err := e.Transformer(secrets).FromStorage(t.Context(), data, at); err == nil && string(out) == "text" {
				t.Error("read with another key")
			} else if tc.kind != "aescbc" && err == nil { // CBC has no seal
				t.Errorf("got %q from a value of another key", out)
			}
		})
	}
}

func TestWhichResources(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" +
		"- resources: [events]\n  providers:\n  - identity: {}\n" +
		"- resources: [secrets, pandas.bears.example]\n  providers:\n" + keyed("aesgcm", "one", key1) +
		"- resources: ['*.apps']\n  providers:\n" + keyed("secretbox", "two", key1) +
		"- resources: ['*.']\n  providers:\n" + keyed("aescbc", "three", key1) +
		"- resources: ['*.*']\n  providers:\n" + keyed("aescbc", "four", key1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e := open(t, path, false)
	for gr, want := range map[schema.GroupResource]string{
		{Resource: "events"}:                         "x",
		{Resource: "secrets"}:                        "k8s:enc:aesgcm:v1:one:",
		{Group: "bears.example", Resource: "pandas"}: "k8s:enc:aesgcm:v1:one:",
		{Group: "bears.example", Resource: "bears"}:  "k8s:enc:aescbc:v1:four:",
		{Group: "apps", Resource: "deployments"}:     "k8s:enc:secretbox:v1:two:",
		{Resource: "pods"}:                           "k8s:enc:aescbc:v1:three:",
		{Group: "batch", Resource: "jobs"}:           "k8s:enc:aescbc:v1:four:",
	} {
		for range 2 {
			if data := write(t, e, gr, "x"); !strings.HasPrefix(string(data), want) {
				t.Errorf("%v: stored as %q", gr, data)
			}
		}
	}
	config(t, path, "[secrets]", keyed("aesgcm", "one", key1))
	e = open(t, path, false)
	if _, _, err := e.Transformer(schema.GroupResource{Resource: "pods"}).FromStorage(t.Context(), []byte("k8s:enc:aescbc:v1:three:??"), at); err == nil {
		t.Error("an encrypted value is taken for a plain one")
	}
}

func TestBadConfigurations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	for name, tc := range map[string]struct{ resources, providers, why string }{
		"no providers":     {"[secrets]", "", "providers"},
		"unknown provider": {"[secrets]", "  - rot13: {}\n", "valid"},
		"short key":        {"[secrets]", keyed("aescbc", "k", "c2hvcnQ="), "length"},
		"not base64":       {"[secrets]", keyed("aescbc", "k", "'!!!'"), "base64"},
		"no key":           {"[secrets]", "  - aescbc: {keys: []}\n", "keys"},
		"overlap":          {"['*.*', secrets]", keyed("aescbc", "k", key1), "*.*"},
		"KMS v1":           {"[secrets]", "  - kms: {name: a, endpoint: 'unix:///a'}\n", "v2"},
		"KMS over TCP":     {"[secrets]", "  - kms: {apiVersion: v2, name: a, endpoint: 'tcp://a'}\n", "unix"},
		"key as a number":  {"[secrets]", "  - aescbc: {keys: [{name: k, secret: [1234567]}]}\n", "valid"},
	} {
		config(t, path, tc.resources, tc.providers)
		e, err := Open(t.Context(), Config{Path: path, Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: got %v, %v", name, e, err)
		}
		if err != nil && (strings.Contains(err.Error(), key1) || strings.Contains(err.Error(), "c2hvcnQ") || strings.Contains(err.Error(), "1234567")) {
			t.Errorf("%s: the error tells the key: %v", name, err)
		}
	}
	if _, err := Open(t.Context(), Config{Path: path + ".not", Log: slog.New(slog.DiscardHandler), Now: time.Now}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// A valid new configuration is taken over while the server runs, a broken one
// is not.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	config(t, path, "[secrets]", keyed("aesgcm", "k1", key1))
	e := open(t, path, true)
	e.cfg.Reloads = reloads.New("encryption", "me", time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	old := write(t, e, secrets, "text")
	begins := func(prefix string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for !bytes.HasPrefix(write(t, e, secrets, "x"), []byte(prefix)) {
			if time.Now().After(deadline) {
				t.Fatalf("never written as %s", prefix)
			}
			time.Sleep(time.Millisecond)
		}
	}
	config(t, path, "[secrets]", keyed("secretbox", "k2", key2)+keyed("aesgcm", "k1", key1))
	begins("k8s:enc:secretbox:v1:k2:")
	if got, stale := read(t, e, secrets, old); got != "text" || !stale {
		t.Errorf("got %q, stale %v", got, stale)
	}
	config(t, path, "[secrets]", "  - nonsense: {}\n")
	config(t, path, "[secrets]", keyed("aescbc", "k3", key1))
	begins("k8s:enc:aescbc:v1:k3:")
	if len(e.Checks()) != 1 || e.Checks()[0].Name != "kms-providers" || e.Checks()[0].Check(ctx) != nil {
		t.Errorf("checks %v", e.Checks())
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(e.cfg.Reloads)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(all); !strings.Contains(text, `value:"success"`) || !strings.Contains(text, fmt.Sprintf("%x", e.current.Load().sum)) {
		t.Errorf("the metrics say %s", text)
	}
}
