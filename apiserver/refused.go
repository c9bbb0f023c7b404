package apiserver

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
)

// auditUnknown records a request of somebody who is not known. As upstream's,
// such records have one stage, that of the answer.
func (s *Server) auditUnknown(r *http.Request, f *front, st *metav1.Status) {
	if s.cfg.Audit == nil {
		return
	}
	f.uri, f.sourceIPs = r.URL.RequestURI(), sourceIPs(r)
	s.cfg.Audit.Unknown(auditedPath(requested(r, client.User{}), f), st)
}

// auditRefused records a request that ended before it had a record: its user
// may not act as another.
func (s *Server) auditRefused(r *http.Request, user client.User, f *front, st *metav1.Status) {
	if s.cfg.Audit == nil {
		return
	}
	f.uri, f.sourceIPs = r.URL.RequestURI(), sourceIPs(r)
	rec := s.beginPathAudit(requested(r, user), f)
	rec.End(st.Code, st)
}
