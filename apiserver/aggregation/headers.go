package aggregation

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/coxswain/cox/client"
)

// setUser names the user in the front-proxy headers, and no one else; what the
// client has proved itself with does not go on.
func setUser(h http.Header, u client.User) {
	for k := range h {
		if lower := strings.ToLower(k); strings.HasPrefix(lower, "x-remote-") || strings.HasPrefix(lower, "impersonate-") {
			delete(h, k)
		}
	}
	h.Del("Authorization")
	dropTokens(h)
	h.Set("X-Remote-User", u.Name)
	if u.UID != "" {
		h.Set("X-Remote-Uid", u.UID)
	}
	for _, g := range u.Groups {
		h.Add("X-Remote-Group", g)
	}
	for k, vs := range u.Extra {
		for _, v := range vs {
			h.Add("X-Remote-Extra-"+headerName(k), v)
		}
	}
}

// dropTokens removes bearer tokens from the sub-protocols of a WebSocket. One
// that let the client in is gone already; this is about those that were not
// needed, beside a certificate.
func dropTokens(h http.Header) {
	const protocols = "Sec-Websocket-Protocol"
	lines, ok := h[protocols]
	if !ok {
		return
	}
	var kept []string
	for _, line := range lines {
		for p := range strings.SplitSeq(line, ",") {
			if p = strings.TrimSpace(p); p != "" && !strings.HasPrefix(p, "base64url.bearer.authorization.k8s.io.") {
				kept = append(kept, p)
			}
		}
	}
	h.Set(protocols, strings.Join(kept, ","))
}

// headerName is a key of a user's extra fields as a part of a header's name:
// what RFC 9110 does not allow there, and the percent sign, is percent-encoded.
func headerName(key string) string {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
