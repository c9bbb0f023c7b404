package callout

import (
	"strings"
	"testing"
)

// FuzzKubeconfig: a kubeconfig is refused or names whom to ask.
func FuzzKubeconfig(f *testing.F) {
	const head = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
	f.Add(head + "clusters: [{name: c, cluster: {server: 'https://a:1/x?y', tls-server-name: b}}]\nusers: [{name: u, user: {token: hunter2}}]")
	f.Add(head + "clusters: [{name: c, cluster: {server: 'https://a', proxy-url: 'http://u:hunter2@[::1', certificate-authority-data: aHVudGVyMg==}}]\nusers: [{name: u, user: {username: a, password: hunter2}}]")
	f.Add(head + "clusters: [{name: c, cluster: {server: x}}]\nusers: [{name: u, user: {client-certificate-data: hunter2, client-key-data: aHVudGVyMg==}}]")
	f.Add("users: hunter2")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		for _, word := range []string{"tokenFile", "certificate-authority:", "client-certificate:", "client-key:"} {
			if strings.Contains(text, word) {
				t.Skip("of files")
			}
		}
		target, err := parse([]byte(text), dir)
		if err != nil {
			return
		}
		if target.url == "" {
			t.Errorf("%q asks nobody", text)
		}
		target.Close()
	})
}
