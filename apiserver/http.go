package apiserver

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// anonymous is who makes a request without credentials.
var anonymous = client.User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}

// ServeHTTP is the HTTP door.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	growStack(len(r.URL.Path))
	f := &front{id: auditID(r), userAgent: r.UserAgent(), received: s.now()}
	defer s.recovered(w, r)
	h := w.Header()
	f.header = h
	s.leaving(h, r)
	h.Set("Audit-Id", string(f.id))
	h.Set("Cache-Control", "no-cache, private")

	user := anonymous
	if s.cfg.Audit != nil {
		ctx, notes := authn.WithNotes(r.Context())
		r, f.notes = r.WithContext(ctx), notes
	}
	if s.cfg.Authn != nil {
		begin := time.Now()
		u, ok, err := s.cfg.Authn.Authenticate(r)
		if err != nil || !ok {
			if err != nil {
				s.log.Debug("request not authenticated", "path", r.URL.Path, "error", err)
			}
			s.metrics.gates.unauthenticated(err, time.Since(begin))
			err = apierrors.NewUnauthorized("Unauthorized")
			s.auditUnknown(r, f, wire.Status(err))
			s.fail(w, r, err)
			return
		}
		user = u
		s.metrics.gates.authenticated(u.Name, time.Since(begin))
	}
	r.Header.Del("Authorization") // nothing behind this line needs the credential
	if s.cfg.Audit != nil {
		f.uri, f.sourceIPs = r.URL.RequestURI(), sourceIPs(r)
	}
	as, err := s.impersonate(r, user, f)
	if err != nil {
		f.unsniffed()
		s.auditRefused(r, user, f, wire.Status(err))
		s.fail(w, r, err)
		return
	}
	user = as
	if s.elsewhere(w, r, user, f) {
		return
	}
	if t, ok := parsePath(r.URL.Path); ok {
		s.serveResource(w, r, user, f, t)
		return
	}
	s.servePath(w, r, user, f)
}

// growStack makes the goroutine's stack as large as requests need it, in one
// step and while there is little on it to move. net/http serves every HTTP/2
// request on a goroutine of its own, whose stack would otherwise double three
// times in the depths of the pipeline, copied each time.
//
//go:noinline
func growStack(any int) byte {
	var room [10 << 10]byte // of 16 KiB, the largest size that the runtime pools
	return room[any&1]
}

// auditID is the client's id for the request, or a new one.
func auditID(r *http.Request) types.UID {
	if id := r.Header.Get("Audit-Id"); id != "" && len(id) <= 64 {
		return types.UID(id)
	}
	return newUID()
}

// sourceIPs is where a request says that it comes from, and does: what proxies
// say is anybody's word, the last one is the connection's (see the type
// audit.k8s.io/v1 Event).
func sourceIPs(r *http.Request) []string {
	var out []string
	if fwd := r.Header.Get("X-Forwarded-For"); fwd != "" {
		for _, p := range strings.Split(fwd, ",") {
			if ip := net.ParseIP(strings.TrimSpace(p)); ip != nil {
				out = append(out, ip.String())
			}
		}
	}
	if ip := net.ParseIP(r.Header.Get("X-Real-Ip")); ip != nil && !slices.Contains(out, ip.String()) {
		out = append(out, ip.String())
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		if len(out) == 0 || out[len(out)-1] != host {
			out = append(out, host)
		}
	}
	return out
}

// recovered keeps a panic in one request from ending the process.
func (s *Server) recovered(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	http.Error(w, "This request caused apiserver to panic. Look in the logs for details.", http.StatusInternalServerError)
}

// fail answers with an error in the format that the client accepts.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) { wire.Fail(w, r, err) }

// target is what the path of a resource request names.
type target struct {
	gvr                          schema.GroupVersionResource
	namespace, name, subresource string
	rest                         string // what follows the subresource, with its slash
	watch                        bool   // the old /watch/ form
}

// parsePath reads /api/v1/... and /apis/group/version/...; false for other
// paths, those of discovery included.
func parsePath(path string) (target, bool) {
	var t target
	rest, ok := strings.CutPrefix(path, "/api/")
	if !ok {
		if rest, ok = strings.CutPrefix(path, "/apis/"); !ok {
			return t, false
		}
		if t.gvr.Group, rest, ok = strings.Cut(rest, "/"); !ok {
			return t, false
		}
	}
	if t.gvr.Version, rest, ok = strings.Cut(rest, "/"); !ok || rest == "" {
		return t, false
	}
	if after, ok := strings.CutPrefix(rest, "watch/"); ok && after != "" {
		t.watch, rest = true, after
	}
	if after, ok := strings.CutPrefix(rest, "namespaces/"); ok && after != "" {
		name, more, _ := strings.Cut(after, "/")
		switch sub := strings.TrimRight(more, "/"); sub {
		case "":
			t.gvr.Resource, t.name = "namespaces", name
			return t, true
		case "status", "finalize":
			t.gvr.Resource, t.name, t.subresource = "namespaces", name, sub
			return t, true
		}
		t.namespace, rest = name, more
	}
	t.gvr.Resource, rest, _ = strings.Cut(rest, "/")
	t.name, rest, _ = strings.Cut(rest, "/")
	if t.subresource, rest, ok = strings.Cut(rest, "/"); ok {
		t.rest = "/" + rest
	}
	return t, t.gvr.Resource != ""
}

// verbOf maps a method to a verb; "" is a method that no resource knows.
func verbOf(r *http.Request, t *target) client.Verb {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch {
		case t.watch:
			return client.Watch
		case t.name != "":
			return client.Get
		case r.URL.RawQuery != "" && isTrue(r.URL.Query(), "watch"):
			return client.Watch
		}
		return client.List
	case http.MethodPost:
		return client.Create
	case http.MethodPut:
		return client.Update
	case http.MethodPatch:
		return client.Patch
	case http.MethodDelete:
		if t.name == "" {
			return client.DeleteCollection
		}
		return client.Delete
	}
	return ""
}

func isTrue(q url.Values, key string) bool {
	v, ok := q[key]
	if !ok || len(v) == 0 {
		return false
	}
	switch strings.ToLower(v[0]) {
	case "false", "0":
		return false
	}
	return true
}

// servePath answers what is not a resource: discovery, health, version,
// OpenAPI, metrics and the configured paths.
func (s *Server) servePath(w http.ResponseWriter, r *http.Request, user client.User, f *front) {
	a := &authz.Attributes{User: user, Verb: strings.ToLower(r.Method), Path: r.URL.Path}
	rec := s.beginPathAudit(a, f)
	turn, err := s.takePathTurn(w, r, &user)
	defer turn.Release()
	if lost := rec.Lost(); err == nil && lost != nil {
		err = unrecorded(lost)
	}
	if err == nil {
		if err = s.decide(r.Context(), a, rec); err != nil {
			f.unsniffed()
		}
	}
	most := s.cfg.RequestTimeout
	if err == nil && r.URL.RawQuery != "" {
		var asked time.Duration
		if asked, err = requestedTimeout(r); asked > 0 {
			most = min(most, asked)
		}
	}
	if err != nil {
		st := wire.Status(err)
		rec.End(st.Code, st)
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), most)
	defer cancel()
	if ctx.Err() != nil {
		rec.End(http.StatusGatewayTimeout, wire.Status(ctx.Err()))
		expired(w, r)
		return
	}
	handler := s.pathHandler(r.URL.Path)
	cw := &pathWriter{codeWriter: codeWriter{ResponseWriter: w, code: http.StatusOK}, rec: rec}
	handler.ServeHTTP(cw, r.WithContext(ctx))
	rec.End(int32(cw.code), cw.refusal)
	switch path := r.URL.Path; path {
	case "/healthz", "/livez", "/readyz":
		if r.Method == http.MethodGet {
			s.metrics.checked(path, cw.code, s.now().Sub(f.received))
		}
	}
}

func (s *Server) beginPathAudit(a *authz.Attributes, f *front) *audit.Record {
	if s.cfg.Audit == nil {
		return nil
	}
	rec := s.cfg.Audit.Begin(auditedPath(a, f))
	if f.imp != nil {
		rec.Impersonated(a.User, f.constraint)
	}
	return rec
}

func auditedPath(a *authz.Attributes, f *front) *audit.Request {
	r := &audit.Request{
		ID: f.id, Received: f.received, URI: f.uri, Verb: a.Verb, User: a.User,
		SourceIPs: f.sourceIPs, UserAgent: f.userAgent, Path: a.Path,
		Group: a.Group, Version: a.Version, Resource: a.Resource, Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name,
		Annotations: f.notes.All(),
	}
	if f.imp != nil {
		r.User = *f.imp
	}
	return r
}

// codeWriter notes the status code of an answer.
type codeWriter struct {
	http.ResponseWriter
	code int
}

// WriteHeader notes the code.
func (c *codeWriter) WriteHeader(code int) { c.code = code; c.ResponseWriter.WriteHeader(code) }

// Hijack hands over the connection, for those that ask the writer itself.
func (c *codeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c.code = http.StatusSwitchingProtocols
	return http.NewResponseController(c.ResponseWriter).Hijack()
}

// Flush sends what is buffered.
func (c *codeWriter) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController find what the writer can do.
func (c *codeWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
