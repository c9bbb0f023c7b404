package authn

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coxswain/cox/pki"
)

// FuzzHeaders: whatever headers a stranger sends, nobody is let in on them; and
// those of a front proxy are all gone once they have been read.
func FuzzHeaders(f *testing.F) {
	w := newWorld(f)
	for _, text := range []string{
		"Authorization: Bearer x", "Authorization: bearer  abcdef.0123456789abcdef", "Authorization: Basic YTpi", "authorization:Bearer\tx",
		"Upgrade: websocket\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.eHg, v5.channel.k8s.io",
		"Upgrade: websocket\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.eHg\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.eHg",
		"X-Remote-User: admin\nX-Remote-Group: system:masters\nX-Remote-Extra-A%2fb: c\nX-Remote-Uid: 7", "X-Remote-User: a\nX-Remote-Extra-%zz: c\nx-remote-extra-: d",
		"Authorization: Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0.",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := request("/api")
		r.Header = http.Header{}
		for line := range strings.SplitSeq(text, "\n") {
			k, v, _ := strings.Cut(line, ":")
			r.Header.Add(strings.TrimSpace(k), strings.TrimSpace(v))
		}
		if strings.Contains(text, "static-token") || strings.Contains(text, "plain") {
			t.Skip("good tokens of the test")
		}
		behind := r.Clone(t.Context())
		if u, ok, _ := w.auth.Authenticate(r); ok {
			t.Errorf("let in as %+v on %q", u, text)
		}
		with(behind, w.certs.FrontProxyClient)
		named := behind.Header.Get("X-Remote-User")
		u, ok, _ := w.auth.Authenticate(behind)
		if !ok {
			return
		}
		if u.Name != named && u.Name != pki.FrontProxyUser {
			t.Errorf("%q, as %q", text, u.Name)
		}
		for k := range behind.Header {
			if len(k) >= 9 && strings.EqualFold(k[:9], "X-Remote-") && named != "" && strings.HasPrefix(strings.ToLower(k), "x-remote-extra-") {
				t.Errorf("%q is left of %q", k, text)
			}
		}
	})
}
