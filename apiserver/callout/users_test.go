package callout

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Servers are shown what the narrowest name in the file says.
func TestUsers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kubeconfig")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", "from-file\n")
	const users = `apiVersion: v1
kind: Config
users:
- {name: hook.ns.svc, user: {token: named}}
- {name: "hook.ns.svc:8443", user: {tokenFile: token}}
- {name: "*.ns.svc", user: {username: u, password: p}}
- {name: "*.example.com:444", user: {token: port}}
- {name: other, user: {token: current}}
`
	for _, tc := range []struct{ more, server, want string }{
		{"", "hook.ns.svc", "Bearer named"},
		{"", "hook.ns.svc:8443", "Bearer from-file"},
		{"", "b.ns.svc", "Basic dTpw"},
		{"", "a.b.ns.svc", "Basic dTpw"},
		{"", "ns.svc", ""},
		{"", "b.ns.svc:1", ""},
		{"", "x.example.com:444", "Bearer port"},
		{"", "10.0.0.1", ""},
		{`- {name: "*", user: {token: any}}`, "10.0.0.1", "Bearer any"},
		{`- {name: "*", user: {token: any}}`, "b.ns.svc", "Basic dTpw"},
		{"contexts: [{name: c, context: {user: other, cluster: x}}]\ncurrent-context: c", "10.0.0.1", "Bearer current"},
	} {
		write("kubeconfig", users+tc.more)
		u, err := OpenUsers(path)
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequest(http.MethodPost, "https://x", nil)
		if err := u.For(tc.server).Authorize(req); err != nil {
			t.Fatal(err)
		}
		if got := req.Header.Get("Authorization"); got != tc.want {
			t.Errorf("%s with %q: got %q, want %q", tc.server, tc.more, got, tc.want)
		}
	}
	for _, bad := range []string{"- {name: x, user: {exec: {command: /bin/true, apiVersion: v1}}}", "- {name: x, user: {tokenFile: none}}", "- {name: x, user: {client-certificate: token}}", "}"} {
		write("kubeconfig", users+bad)
		if _, err := OpenUsers(path); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
	if (*Users)(nil).For("x") != nil {
		t.Error("nobody has a credential")
	}
}
