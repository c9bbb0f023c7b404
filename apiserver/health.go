package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/internal/slis"
)

// Check tells whether a part of the server works. It is asked from several
// goroutines at once.
type Check func(ctx context.Context) error

type namedCheck struct {
	name  string
	check Check
}

// endpoints are where health is asked for (the page "Kubernetes API health
// endpoints"): whether the process works, whether it is to be started anew, and
// whether it is to get requests.
var endpoints = []string{"healthz", "livez", "readyz"}

// health answers /healthz, /livez and /readyz, and /metrics/slis, which counts
// what the checks said.
type health struct {
	srv  *Server
	slis *slis.Results

	mu    sync.Mutex
	every []namedCheck // of all endpoints
	ready []namedCheck // of readyz alone
}

func newHealth(s *Server) *health {
	return &health{
		srv: s, slis: slis.New(),
		every: []namedCheck{{"ping", func(context.Context) error { return nil }}},
		ready: []namedCheck{{"shutdown", func(context.Context) error {
			if s.away.Err() != nil {
				return errors.New("process is shutting down")
			}
			return nil
		}}},
	}
}

// AddCheck makes healthz, livez and readyz depend on f.
func (s *Server) AddCheck(name string, f Check) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.every = append(s.health.every, namedCheck{name, f})
}

// AddReadyCheck makes readyz alone depend on f.
func (s *Server) AddReadyCheck(name string, f Check) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.ready = slices.Insert(s.health.ready, len(s.health.ready)-1, namedCheck{name, f}) // shutdown is the last
}

// PostStart makes healthz, livez and readyz fail under "poststarthook/name",
// for each of the names, until done is called. done may be called again.
func (s *Server) PostStart(names ...string) (done func()) {
	finished := make(chan struct{})
	s.PostStarted(finished, names...)
	return sync.OnceFunc(func() { close(finished) })
}

// PostStarted is PostStart for what closes a channel when it is done.
func (s *Server) PostStarted(finished <-chan struct{}, names ...string) {
	for _, name := range names {
		s.AddCheck("poststarthook/"+name, Closed(finished))
	}
}

// Closed is a check that fails until the channel is closed.
func Closed(finished <-chan struct{}) Check {
	return func(context.Context) error {
		select {
		case <-finished:
			return nil
		default:
			return errors.New("not finished")
		}
	}
}

// Ready runs the checks of readyz; the error names those that fail.
func (s *Server) Ready(ctx context.Context) error {
	var errs []error
	for _, c := range s.health.checks("readyz") {
		if err := c.check(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}

func (h *health) checks(endpoint string) []namedCheck {
	h.mu.Lock()
	defer h.mu.Unlock()
	if endpoint == "readyz" {
		return slices.Concat(h.every, h.ready)
	}
	return slices.Clone(h.every)
}

// handler is what answers a path; nil if it is none of health's.
func (h *health) handler(path string) http.Handler {
	if path == "/metrics/slis" {
		return http.HandlerFunc(h.serveSLIs)
	}
	endpoint, one, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !slices.Contains(endpoints, endpoint) {
		return nil
	}
	checks := h.checks(endpoint)
	if one == "" {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.all(w, r, endpoint, checks) })
	}
	for _, c := range checks {
		if c.name == one {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.one(w, r, endpoint, c) })
		}
	}
	return nil
}

func (h *health) one(w http.ResponseWriter, r *http.Request, endpoint string, c namedCheck) {
	err := c.check(r.Context())
	h.slis.Observe(endpoint, c.name, err)
	if err != nil {
		http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
		return
	}
	plain(w, "ok", false)
}

func plain(w http.ResponseWriter, text string, sniffed bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if sniffed {
		w.Header().Set("X-Content-Type-Options", "nosniff")
	}
	_, _ = w.Write([]byte(text))
}

// all runs the checks of an endpoint but for those that ?exclude= names. Why
// one fails goes to the log: whoever asks need not be known.
func (h *health) all(w http.ResponseWriter, r *http.Request, endpoint string, checks []namedCheck) {
	var out bytes.Buffer
	var failed []string
	query := r.URL.Query()
	excluded := query["exclude"]
	for _, c := range checks {
		if slices.Contains(excluded, c.name) {
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		err := c.check(r.Context())
		h.slis.Observe(endpoint, c.name, err)
		if err != nil {
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.name)
			failed = append(failed, fmt.Sprintf("%s: %v", c.name, err))
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	if text := unknownChecks(excluded, checks); text != "" {
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %s\n", text)
	}
	if len(failed) > 0 {
		h.srv.log.Debug("health check failed", "endpoint", endpoint, "failed", failed)
		http.Error(w, fmt.Sprintf("%s%s check failed", out.String(), endpoint), http.StatusInternalServerError)
		return
	}
	if !query.Has("verbose") {
		plain(w, "ok", true)
		return
	}
	fmt.Fprintf(&out, "%s check passed\n", endpoint)
	plain(w, out.String(), true)
}

// serveSLIs runs each check once before it answers: where nobody else asks for
// health, as of a process that no kubelet watches, the answer would be an old
// one.
func (h *health) serveSLIs(w http.ResponseWriter, r *http.Request) {
	said := map[string]error{}
	for _, endpoint := range endpoints {
		for _, c := range h.checks(endpoint) {
			err, ok := said[c.name]
			if !ok {
				err = c.check(r.Context())
				said[c.name] = err
			}
			h.slis.Observe(endpoint, c.name, err)
		}
	}
	h.slis.ServeHTTP(w, r)
}

// unknownChecks quotes the names that are none of a check.
func unknownChecks(names []string, checks []namedCheck) string {
	var unknown []string
	for _, name := range names {
		if !slices.ContainsFunc(checks, func(c namedCheck) bool { return c.name == name }) {
			unknown = append(unknown, strconv.Quote(name))
		}
	}
	slices.Sort(unknown)
	return strings.Join(slices.Compact(unknown), ",")
}

func (s *Server) serveVersion(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		s.fail(w, r, noMethod())
		return
	}
	if !wire.Routed(r.Header.Get("Accept"), wire.TypeJSON) {
		s.fail(w, r, wire.Unrouted([]string{wire.TypeJSON}))
		return
	}
	b, err := json.MarshalIndent(s.cfg.Version, "", "  ")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// servePaths lists what there is besides resources.
func (s *Server) servePaths(w http.ResponseWriter, r *http.Request) {
	paths := append([]string{"/healthz", "/livez", "/metrics", "/metrics/slis", "/readyz", "/version"}, s.disco.paths()...)
	if s.cfg.OpenAPI != nil {
		paths = append(paths, "/openapi/v2", "/openapi/v3", "/openapi/v3/")
	}
	for p := range s.cfg.Paths {
		paths = append(paths, p)
	}
	for _, e := range endpoints {
		for _, c := range s.health.checks(e) {
			paths = append(paths, "/"+e+"/"+c.name)
		}
	}
	sort.Strings(paths)
	b, err := json.MarshalIndent(map[string][]string{"paths": paths}, "", "  ")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
