package apiserver

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// Aggregator serves group versions through other API servers. Its methods are
// safe for concurrent use.
type Aggregator interface {
	// Handler returns what serves a group version elsewhere, or nil. It is
	// given requests that are authenticated and authorized.
	Handler(gv schema.GroupVersion) func(http.ResponseWriter, *http.Request, client.User)
	// Extra lists what is served elsewhere; the number, which Changes returns
	// alone, is another whenever the list is.
	Extra() ([]discovery.Version, int64)
	Changes() int64
}

// SetAggregator makes the server pass group versions on. It is called before
// the server answers HTTP requests.
func (s *Server) SetAggregator(a Aggregator) { s.aggregator.Store(&a) }

// SetKnown tells the server how to find out whether all definitions and
// APIServices that were there at its start have been read, so that what it does
// not know does not exist.
func (s *Server) SetKnown(known func() bool) { s.known.Store(&known) }

// elsewhere answers a request for a group version that another server serves;
// false if this one does.
func (s *Server) elsewhere(w http.ResponseWriter, r *http.Request, user client.User, f *front) bool {
	agg := s.aggregator.Load()
	if agg == nil {
		return false
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/apis/")
	if !ok {
		return false
	}
	group, rest, ok := strings.Cut(rest, "/")
	version, _, _ := strings.Cut(rest, "/")
	if !ok || version == "" {
		return false
	}
	serve := (*agg).Handler(schema.GroupVersion{Group: group, Version: version})
	if serve == nil {
		return false
	}
	a := &authz.Attributes{User: user, Verb: strings.ToLower(r.Method), Path: r.URL.Path}
	if t, ok := parsePath(r.URL.Path); ok {
		a = &authz.Attributes{
			User: user, Verb: string(verbOf(r, &t)), Group: group, Version: version, Resource: t.gvr.Resource,
			Subresource: t.subresource, Namespace: t.namespace, Name: t.name,
		}
		if a.Verb == "" {
			a.Verb = strings.ToLower(r.Method)
		}
	}
	rec := s.beginPathAudit(a, f)
	var turn flow.Turn
	var err error
	if a.Verb != string(client.Watch) && s.cfg.Flow != nil {
		turn, err = s.cfg.Flow.Take(r.Context(), &flow.Attributes{
			User: &user, Verb: a.Verb, Path: a.Path, Group: a.Group, Version: a.Version, Resource: a.Resource,
			Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name,
		})
		tellTurn(w.Header(), &turn)
	}
	defer turn.Release()
	if lost := rec.Lost(); err == nil && lost != nil {
		err = unrecorded(lost)
	}
	if err == nil {
		err = s.decide(r.Context(), a, rec)
	}
	if err != nil {
		st := wire.Status(err)
		rec.End(st.Code, st)
		s.fail(w, r, err)
		return true
	}
	s.passOn(w, r, a, user, f, &turn, serve, rec)
	return true
}

// passOn has another server answer. A server that does not gets no longer than
// this one would take itself, unless the request is for a stream: a watch, a
// subresource that streams, or a connection that changes its protocol, which
// also gives its turn back.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, a *authz.Attributes, user client.User, f *front,
	turn *flow.Turn, serve func(http.ResponseWriter, *http.Request, client.User), rec *audit.Record) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	pw := &passedWriter{codeWriter: codeWriter{ResponseWriter: w, code: http.StatusOK}}
	stream := a.Verb == string(client.Watch)
	switch a.Subresource {
	case "attach", "exec", "log", "portforward", "proxy":
		stream = true
	}
	if stream {
		turn.Release()
	} else {
		limit := time.AfterFunc(s.cfg.RequestTimeout, func() { cancel(context.DeadlineExceeded) })
		defer limit.Stop()
		pw.upgraded = func() {
			limit.Stop()
			turn.Release()
		}
	}
	if stream || r.Header.Get("Upgrade") != "" {
		defer context.AfterFunc(s.away, func() { cancel(nil) })()
	}
	r = r.WithContext(ctx)
	r.Header = r.Header.Clone()
	r.Header.Set("Audit-Id", string(f.id)) // the other server's records are of the same request
	s.open.Add(1)
	defer s.open.Done()
	defer func() { rec.End(int32(pw.code), nil) }() // also if the answer breaks off
	serve(pw, r, user)
}

// passedWriter tells when the connection changes its protocol.
type passedWriter struct {
	codeWriter
	upgraded func() // may be nil
}

// Hijack hands over the connection.
func (p *passedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if p.upgraded != nil {
		p.upgraded()
	}
	return p.codeWriter.Hijack()
}

// withElsewhere adds what other servers serve to the groups of this one.
func (s *Server) withElsewhere(kinds []*api.Kind) []discovery.Group {
	groups := discovery.Groups(kinds)
	if agg := s.aggregator.Load(); agg != nil {
		extra, _ := (*agg).Extra()
		groups = discovery.With(groups, extra)
	}
	return groups
}

// elsewhereChanges counts the changes of what other servers serve.
func (s *Server) elsewhereChanges() int64 {
	if agg := s.aggregator.Load(); agg != nil {
		return (*agg).Changes()
	}
	return 0
}
