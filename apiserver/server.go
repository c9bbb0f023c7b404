package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/audit"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/flow"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// Config is what a Server is made of.
type Config struct {
	// Table holds the kinds that are served.
	Table *api.Table
	// Store returns the store of a kind; it is called once per stored kind.
	Store func(*api.Kind) store.Interface

	// Authn names the user of an HTTP request; nil makes everyone anonymous.
	Authn authn.Authenticator
	// Authz decides on every request of both doors; nil allows everything.
	Authz authz.Authorizer
	// Admission plugins run in this order; SetAdmission replaces them.
	Admission []admission.Plugin
	// Audit records requests; nil records nothing.
	Audit *audit.Log
	// Flow, where set, makes requests wait for their turn.
	Flow *flow.Controller

	Extensions Extensions
	// OpenAPI serves /openapi/v2 and /openapi/v3; nil answers 404.
	OpenAPI http.Handler
	// Paths are further paths that are not resources ("/openid/v1/jwks"); a
	// key that ends in "/" serves all that begins with it. They are
	// authorized like any other path.
	Paths   map[string]http.Handler
	Version version.Info
	Log     *slog.Logger

	// Now is the clock of timestamps; nil is time.Now.
	Now func() time.Time
	// RequestTimeout bounds requests that are not long-running; 0 is 60 s.
	RequestTimeout time.Duration
	// Address is what /api tells clients about the server ("10.0.0.1:6443").
	Address string
}

// Server is the API server: one pipeline with a local and an HTTP door. Its
// exported methods are safe for concurrent use.
type Server struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	codec  *wire.Codec
	routes map[schema.GroupVersionResource]*resource
	groups map[schema.GroupVersion]bool
	own    map[string]bool // the groups of the table
	custom custom          // kinds that come and go while the server runs

	admission  atomic.Pointer[admissionChain]
	aggregator atomic.Pointer[Aggregator]
	known      atomic.Pointer[func() bool] // see SetKnown
	disco      *discoverer
	health     *health
	metrics    *metrics

	away     context.Context // ends when the HTTP door begins to close
	leave    context.CancelFunc
	late     atomic.Int64    // HTTP/1 requests since then
	stop     context.Context // ends when the server shuts down
	shutdown context.CancelFunc
	open     sync.WaitGroup // long-running requests
}

// New makes a server. It starts no goroutine and does no work that a request
// could not wait for.
func New(cfg Config) (*Server, error) {
	if cfg.Table == nil || cfg.Store == nil {
		return nil, fmt.Errorf("api server: no table of kinds or no store")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = time.Minute
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, now: cfg.Now, codec: wire.New(cfg.Table.Scheme),
		routes: map[schema.GroupVersionResource]*resource{}, groups: map[schema.GroupVersion]bool{}, own: map[string]bool{},
	}
	s.stop, s.shutdown = context.WithCancel(context.Background())
	s.away, s.leave = context.WithCancel(s.stop)
	for _, k := range cfg.Table.Kinds {
		s.addKind(k)
	}
	s.disco = newDiscoverer(s)
	s.health = newHealth(s)
	s.metrics = newMetrics()
	s.SetAdmission(cfg.Admission)
	s.metrics.registry.MustRegister(newStored(s))
	return s, nil
}

func (s *Server) addKind(k *api.Kind) {
	ks := newKind(s, k)
	for i := range k.Views {
		v := &k.Views[i]
		r := newResource(s, ks, v)
		s.routes[r.gvr] = r
		s.groups[v.GroupVersion()] = true
		s.own[v.Group] = true
	}
}

// Door is the way in for components of the same process: typed objects in and
// out, nothing encoded. The caller names its user in the request; wrap the
// door with client.As before handing it on.
func (s *Server) Door() client.Interface { return &door{s} }

// Shutdown makes readyz fail, ends all watches and other long-running
// requests, and waits for them until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.shutdown()
	done := make(chan struct{})
	go func() { s.open.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("api server: requests still open: %w", ctx.Err())
	}
}

// Encodings says how many objects have been encoded to and decoded from wire
// formats so far.
func (s *Server) Encodings() (encoded, decoded int64) {
	return s.codec.Counter.Encoded.Load(), s.codec.Counter.Decoded.Load()
}
