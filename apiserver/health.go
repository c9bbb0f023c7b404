package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"
)

// Check tells whether a part of the server works.
type Check func(ctx context.Context) error

type namedCheck struct {
	name  string
	check Check
}

// health answers /healthz, /livez and /readyz. Liveness is about the process
// alone; readiness adds what AddReadyCheck was given.
type health struct {
	srv *Server

	mu    sync.Mutex
	live  []namedCheck
	ready []namedCheck
}

func newHealth(s *Server) *health {
	ping := namedCheck{"ping", func(context.Context) error { return nil }}
	h := &health{srv: s, live: []namedCheck{ping}, ready: []namedCheck{ping}}
	h.ready = append(h.ready, namedCheck{"shutdown", func(context.Context) error {
		if s.away.Err() != nil {
			return errors.New("process is shutting down")
		}
		return nil
	}})
	return h
}

// AddReadyCheck makes readyz (and healthz) depend on f.
func (s *Server) AddReadyCheck(name string, f func(ctx context.Context) error) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.ready = append(s.health.ready, namedCheck{name, f})
}

// PostStart makes readyz and healthz fail under "poststarthook/name" until
// done is called.
func (s *Server) PostStart(name string) (done func()) {
	var mu sync.Mutex
	finished := false
	s.AddReadyCheck("poststarthook/"+name, func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if !finished {
			return errors.New("not finished")
		}
		return nil
	})
	return func() { mu.Lock(); finished = true; mu.Unlock() }
}

// Ready runs the ready checks; the error names those that fail.
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
	list := h.ready
	if endpoint == "livez" {
		list = h.live
	}
	return append([]namedCheck(nil), list...)
}

func (h *health) handler(path string) http.Handler {
	rest := strings.TrimPrefix(path, "/")
	endpoint, one, _ := strings.Cut(rest, "/")
	switch endpoint {
	case "healthz", "livez", "readyz":
	default:
		return nil
	}
	checks := h.checks(endpoint)
	if one == "" {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.all(w, r, endpoint, checks) })
	}
	for _, c := range checks {
		if c.name == one {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.one(w, r, c) })
		}
	}
	return nil
}

func (h *health) one(w http.ResponseWriter, r *http.Request, c namedCheck) {
	if err := c.check(r.Context()); err != nil {
		http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
		return
	}
	plain(w, "ok")
}

func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(text))
}

func (h *health) all(w http.ResponseWriter, r *http.Request, endpoint string, checks []namedCheck) {
	var out bytes.Buffer
	var failed []string
	excluded := r.URL.Query()["exclude"]
	for _, c := range checks {
		if contains(excluded, c.name) {
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.check(r.Context()); err != nil {
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.name)
			failed = append(failed, fmt.Sprintf("%s: %v", c.name, err))
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	if len(failed) > 0 {
		h.srv.log.Debug("health check failed", "endpoint", endpoint, "failed", failed)
		http.Error(w, fmt.Sprintf("%s%s check failed", out.String(), endpoint), http.StatusInternalServerError)
		return
	}
	if _, verbose := r.URL.Query()["verbose"]; !verbose {
		plain(w, "ok")
		return
	}
	fmt.Fprintf(&out, "%s check passed\n", endpoint)
	plain(w, out.String())
}

func (s *Server) serveVersion(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "405: Method Not Allowed", http.StatusMethodNotAllowed)
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
	paths := append([]string{"/healthz", "/livez", "/metrics", "/readyz", "/version"}, s.disco.paths()...)
	if s.cfg.OpenAPI != nil {
		paths = append(paths, "/openapi/v2", "/openapi/v3", "/openapi/v3/")
	}
	for p := range s.cfg.Paths {
		paths = append(paths, p)
	}
	for _, e := range []string{"healthz", "livez", "readyz"} {
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
