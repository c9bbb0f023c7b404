package callout

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// open writes a kubeconfig for a server and opens it.
func open(t *testing.T, srv *httptest.Server, user string) *Target {
	t.Helper()
	dir := t.TempDir()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %s/ask, certificate-authority-data: %s}}]
users: [{name: u, user: %s}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, srv.URL, ca, strings.ReplaceAll(user, "DIR", dir))
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target
}

func TestCredentials(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(map[string]string{"auth": r.Header.Get("Authorization"), "path": r.URL.Path, "body": string(body), "method": r.Method})
	}))
	defer srv.Close()
	for user, want := range map[string]string{
		"{}":                         "",
		"{token: abc}":               "Bearer abc",
		"{tokenFile: token}":         "Bearer first",
		"{tokenFile: DIR/token}":     "Bearer first",
		"{username: a, password: b}": "Basic YTpi",
	} {
		var got map[string]string
		if err := open(t, srv, user).Ask(t.Context(), map[string]int{"n": 1}, &got, Retry{}); err != nil {
			t.Fatal(err)
		}
		if got["auth"] != want || got["path"] != "/ask" || got["body"] != `{"n":1}` || got["method"] != "POST" {
			t.Errorf("%s: got %v", user, got)
		}
	}
}

func TestTokenFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	f := &followed[string]{path: path, parse: func(b []byte) (string, error) { return string(b), nil }}
	if _, err := f.get(); err == nil {
		t.Error("no file, no error")
	}
	for i, text := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		if got, err := f.get(); err != nil || got != text {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got, err := f.get(); err != nil || got != "two" {
		t.Errorf("without the file: %q, %v", got, err)
	}
}

func TestRetry(t *testing.T) {
	var asked atomic.Int32
	answers := make(chan int, 10)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		code := <-answers
		if code == 302 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(code)
		fmt.Fprint(w, `{"a":1}`)
	}))
	defer srv.Close()
	target := open(t, srv, "{}")
	fast := Retry{Steps: 3, First: time.Nanosecond, Factor: 1}
	for name, tc := range map[string]struct {
		codes []int
		asked int32
		fails bool
	}{
		"good":                {[]int{200}, 1, false},
		"trouble, then good":  {[]int{500, 503, 201}, 3, false},
		"trouble":             {[]int{500, 429, 500}, 3, true},
		"refused":             {[]int{403}, 1, true},
		"sent somewhere else": {[]int{302}, 1, true},
	} {
		asked.Store(0)
		for _, c := range tc.codes {
			answers <- c
		}
		var got struct{ A int }
		err := target.Ask(t.Context(), 1, &got, fast)
		if (err != nil) != tc.fails || asked.Load() != tc.asked || err == nil && got.A != 1 {
			t.Errorf("%s: asked %d times, got %v, %v", name, asked.Load(), got, err)
		}
		var said *Error
		if tc.fails && (!errors.As(err, &said) || said.Code != tc.codes[len(tc.codes)-1]) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	answers <- 200
	var wrong int
	asked.Store(0)
	if err := target.Ask(t.Context(), 1, &wrong, fast); !errors.Is(err, errAnswer) || asked.Load() != 1 {
		t.Errorf("an answer of another kind: %v after %d", err, asked.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := target.Ask(ctx, 1, nil, fast); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestBadKubeconfigs(t *testing.T) {
	const good = "clusters: [{name: c, cluster: {server: 'https://a'}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
	if _, err := parse([]byte(good), ""); err != nil {
		t.Fatal(err)
	}
	for text, why := range map[string]string{
		"":                   "current-context",
		"current-context: y": "no context",
		"\tx":                "YAML",
		replaced(good, "cluster: c", "cluster: d"):                                     `cluster "d"`,
		replaced(good, "user: u", "user: v"):                                           `user "v"`,
		replaced(good, "https://a", "ftp://a"):                                         "URL",
		replaced(good, "user: {}", "user: {exec: {command: rm}}"):                      "program",
		replaced(good, "user: {}", "user: {tokenFile: /no/such/file}"):                 "tokenFile",
		replaced(good, "user: {}", "user: {client-certificate: /no}"):                  "client-certificate",
		replaced(good, "'https://a'", "'https://a', certificate-authority-data: YQ=="): "no certificate",
		replaced(good, "'https://a'", "'https://a', certificate-authority: /no"):       "certificate-authority",
	} {
		if _, err := parse([]byte(text), ""); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, want %q", text, err, why)
		}
	}
}

func replaced(s, old, with string) string { return strings.Replace(s, old, with, 1) }
