package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
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
	if a.Verb == string(client.Watch) || r.Header.Get("Upgrade") != "" {
		ctx, cancel := s.untilAway(r.Context())
		defer cancel()
		r = r.WithContext(ctx)
	} else if s.cfg.Flow != nil {
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
	cw := &codeWriter{ResponseWriter: w, code: http.StatusOK}
	s.open.Add(1)
	defer s.open.Done()
	serve(cw, r, user)
	rec.End(int32(cw.code), nil)
	return true
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
