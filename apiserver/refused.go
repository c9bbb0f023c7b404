package apiserver

import (
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// auditRefused records a request that ended before it had a record: its user
// is not known, or may not act as another.
func (s *Server) auditRefused(r *http.Request, user client.User, f *front, st *metav1.Status) {
	if s.cfg.Audit == nil {
		return
	}
	f.uri, f.sourceIPs = r.URL.RequestURI(), sourceIPs(r)
	rec := s.beginPathAudit(requested(r, user), f)
	rec.End(st.Code, st)
}

// attempted says with which kinds of credentials a request failed to
// authenticate, in upstream's words.
func attempted(r *http.Request) string {
	var with []string
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		with = append(with, "x509")
	}
	if kind, _, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " "); ok {
		switch kind = strings.ToLower(kind); kind {
		case "basic", "bearer": // anything else could be a secret itself
			with = append(with, kind)
		}
	}
	if len(with) == 0 {
		return "Authentication failed, no credentials provided"
	}
	return "Authentication failed, attempted: " + strings.Join(with, ", ")
}
