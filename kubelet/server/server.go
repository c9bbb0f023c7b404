// Package server is the kubelet's HTTPS API: authenticated requests of the
// API server and of metric collectors go in, logs, streams into containers
// and statistics come out.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/slis"
	"github.com/coxswain/cox/internal/zpages"
	"github.com/coxswain/cox/kubelet"
)

// Node is what the API needs of the kubelet; *kubelet.Kubelet is one. Objects
// are read only. Errors are sentences for the user.
type Node interface {
	NodeName() string
	// PodList returns the pods of the node.
	PodList() []*corev1.Pod
	// Pod finds a pod; uid "" matches any.
	Pod(namespace, name, uid string) (*corev1.Pod, bool)
	// Container finds a container's present or previous instance.
	Container(namespace, name, uid, container string, previous bool) (*kubelet.ContainerRef, error)
	// Sandbox returns the CRI id of the pod's sandbox and the pod's address.
	Sandbox(namespace, name, uid string) (id, ip string, err error)
	// VolumeStats are how full the pod's volumes of drivers are, as far as these
	// tell.
	VolumeStats(ctx context.Context, pod *corev1.Pod) []stats.VolumeStats
}

// Config is what the API is made of. Fields without a default must be set.
type Config struct {
	Node    Node
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	// Client asks the API server who a token's bearer is and what a user may
	// do (TokenReview, SubjectAccessReview); it carries the node's identity.
	Client client.Interface
	// Authorize replaces the SubjectAccessReview where set, for tests and for
	// a node alone.
	Authorize func(ctx context.Context, user client.User, verb, path, subresource string) (bool, string, error)
	// GetCertificate returns the serving certificate, ClientCAs those that
	// client certificates are verified by. Both are asked at every handshake,
	// so that certificates can be rotated.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCAs      func() *x509.CertPool
	// MinTLS is the least version of TLS, CipherSuites and Curves are those
	// allowed; 0 and nil stand for TLS 1.2 and Go's defaults.
	MinTLS       uint16
	CipherSuites []uint16
	Curves       []tls.CurveID
	// Anonymous lets in, as system:anonymous, who shows no credential.
	// NoTokens accepts certificates only. AlwaysAllow asks nobody what a user
	// may do.
	Anonymous, NoTokens, AlwaysAllow bool
	// How long answers about tokens and rights are believed; 0 stands for 2
	// and 5 minutes, and 30 s.
	TokenTTL, AllowedTTL, DeniedTTL time.Duration
	// NoDebugging answers neither streams nor logs, NoSystemLogs not /logs/.
	NoDebugging, NoSystemLogs bool
	// SystemLogs is the folder served under /logs/; "" is /var/log. LogQuery
	// answers queries there, of the journal too, with the program Journal; "" is
	// journalctl.
	SystemLogs, Journal string
	LogQuery            bool
	// RootDir is the kubelet's folder, whose file system is the node's.
	RootDir string
	// Version and Flags are shown under /statusz and /flagz; no value is to be a
	// secret.
	Version string
	Flags   map[string]string
	// Configuration is shown under /configz; nil is an empty one.
	Configuration any
	// Groups finds the cgroups behind /metrics/cadvisor; nil answers nothing
	// there.
	Groups Groups
	// CheckpointDir is where archives of checkpointed containers go; ""
	// makes none.
	CheckpointDir string
	// Metrics are further metrics for /metrics.
	Metrics []prometheus.Collector
	// Healthy returns why the kubelet is not; nil means it always is.
	Healthy func() error
	Log     *slog.Logger
}

// Server serves the API. It is safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	auth    *authenticator
	authz   *authorizer
	cpu     rates
	started time.Time
	mux     *http.ServeMux
	slis    *slis.Results
	counts  *counts
	// collected answers with the metrics that are kept, cfg.Metrics among them.
	collected http.Handler

	cadvisor struct {
		mu   sync.Mutex
		at   time.Time
		text []byte
	}
}

// New makes a server; it starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Node == nil || cfg.Runtime == nil || cfg.Images == nil {
		return nil, errors.New("kubelet API: Node, Runtime and Images must be set")
	}
	if cfg.Client == nil && cfg.Authorize == nil {
		return nil, errors.New("kubelet API: Client must be set")
	}
	if cfg.SystemLogs == "" {
		cfg.SystemLogs = "/var/log"
	}
	cfg.Journal = cmp.Or(cfg.Journal, "journalctl")
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Log.With("component", "kubelet-api"), started: time.Now(), slis: slis.New(), counts: newCounts()}
	s.auth = &authenticator{client: cfg.Client, anonymous: cfg.Anonymous, noTokens: cfg.NoTokens, ttl: cmp.Or(cfg.TokenTTL, tokenTTL)}
	s.authz = newAuthorizer(cfg)
	registry := prometheus.NewRegistry()
	own := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
	for _, m := range slices.Concat(own, s.counts.parts(), cfg.Metrics) {
		if err := registry.Register(m); err != nil {
			return nil, fmt.Errorf("kubelet API: metrics: %w", err)
		}
	}
	s.collected = promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
	s.routes()
	return s, nil
}

func (s *Server) routes() {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", s.healthz)
	m.HandleFunc("GET /healthz/{check}", s.healthz)
	m.HandleFunc("GET /pods", s.pods)
	m.HandleFunc("GET /pods/{$}", s.pods)
	m.HandleFunc("GET /runningpods/{$}", s.runningPods)
	if !s.cfg.NoDebugging {
		s.debugRoutes(m)
	}
	m.HandleFunc("GET /stats/summary", s.summary)
	m.HandleFunc("POST /stats/summary", s.summary)
	m.HandleFunc("GET /metrics/resource", s.resourceMetrics)
	m.HandleFunc("GET /metrics/cadvisor", s.cadvisorMetrics)
	m.HandleFunc("GET /metrics/probes", s.probeMetrics)
	m.HandleFunc("GET /metrics/slis", s.sliMetrics)
	m.HandleFunc("GET /metrics", s.metrics)
	m.HandleFunc("GET /configz", s.configz)
	pages := zpages.Component{
		Name: "kubelet", Version: s.cfg.Version, Started: s.started, Flags: s.cfg.Flags,
		Paths: []string{"/configz", "/flagz", "/healthz", "/metrics", "/statusz"},
	}
	m.HandleFunc("GET /statusz", pages.Statusz)
	m.HandleFunc("GET /flagz", pages.Flagz)
	s.mux = m
}

// debugRoutes are those of streams and logs.
func (s *Server) debugRoutes(m *http.ServeMux) {
	m.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, uid := range []string{"", "/{uid}"} {
		for _, method := range []string{"GET", "POST"} {
			m.HandleFunc(method+" /exec/{namespace}/{pod}"+uid+"/{container}", s.exec)
			m.HandleFunc(method+" /attach/{namespace}/{pod}"+uid+"/{container}", s.attach)
			m.HandleFunc(method+" /portForward/{namespace}/{pod}"+uid, s.portForward)
		}
		m.HandleFunc("POST /run/{namespace}/{pod}"+uid+"/{container}", s.run)
	}
	m.HandleFunc("POST /checkpoint/{namespace}/{pod}/{container}", s.checkpoint)
	if !s.cfg.NoSystemLogs {
		m.HandleFunc("GET /logs/", s.systemLogs)
	}
}

// refuse answers with a message and a status code. Nothing follows the
// message, as with upstream's kubelet: the API server makes it that of a
// Status, which kubectl prints.
func refuse(w http.ResponseWriter, message string, code int) {
	h := w.Header()
	h.Del("Content-Length") // of an answer that was meant to be another one
	h.Del("Content-Encoding")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, message) // whoever asked may be gone
}

// ServeHTTP authenticates, authorizes and answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.counts.request(r)()
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			s.log.Error("a request panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			refuse(w, "internal error", http.StatusInternalServerError)
		}
	}()
	user, err := s.auth.authenticate(r)
	if err != nil {
		if !errors.Is(err, errNoCredential) {
			s.log.Warn("a request could not be authenticated", "from", r.RemoteAddr, "err", err)
		}
		refuse(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	// A cleaned path only: what is authorized must be what is served.
	if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/../") || strings.HasSuffix(r.URL.Path, "/..") {
		refuse(w, "the path is not clean", http.StatusBadRequest)
		return
	}
	if err := s.authz.check(r, user); err != nil {
		var denied *deniedError
		if errors.As(err, &denied) {
			refuse(w, err.Error(), http.StatusForbidden)
			return
		}
		s.log.Error("a request could not be authorized", "user", user.Name, "err", err)
		refuse(w, "Authorization error: "+err.Error(), http.StatusInternalServerError)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Serve serves the API over TLS on the listener until ctx ends, and then
// gives running requests a moment.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.cfg.GetCertificate == nil || s.cfg.ClientCAs == nil {
		return errors.New("kubelet API: GetCertificate and ClientCAs must be set")
	}
	base := &tls.Config{
		MinVersion: cmp.Or(s.cfg.MinTLS, tls.VersionTLS12), CipherSuites: s.cfg.CipherSuites, CurvePreferences: s.cfg.Curves,
		NextProtos: []string{"h2", "http/1.1"}, GetCertificate: s.cfg.GetCertificate,
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient = nil
		// Other clients may come with a token.
		c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, s.cfg.ClientCAs()
		return c, nil
	}
	srv := &http.Server{
		Handler: s, TLSConfig: base, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("kubelet API: %w", err)
	case <-ctx.Done():
	}
	// Streams would never end by themselves.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		srv.Close()
	}
	<-done
	return nil
}

// healthChecks are the names under which upstream tells of the kubelet's
// health. They share one state: whether the kubelet goes on.
var healthChecks = []string{"ping", "log", "syncloop"}

// healthy runs the checks and counts what they say.
func (s *Server) healthy() error {
	var err error
	if s.cfg.Healthy != nil {
		err = s.cfg.Healthy()
	}
	for _, check := range healthChecks {
		s.slis.Observe("healthz", check, err)
	}
	return err
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if check := r.PathValue("check"); check != "" && !slices.Contains(healthChecks, check) {
		http.NotFound(w, r)
		return
	}
	if err := s.healthy(); err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, "ok")
}

// sliMetrics runs the checks, as not everybody has them run by others, and
// answers how often they said what.
func (s *Server) sliMetrics(w http.ResponseWriter, r *http.Request) {
	_ = s.healthy() // counted
	s.slis.ServeHTTP(w, r)
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.cfg.Node.PodList() {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, list)
}

// runningPods lists what the runtime runs, whatever the API says.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	res, err := s.cfg.Runtime.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	at := map[string]int{}
	for _, c := range res.Containers {
		ref := refOf(c.Labels)
		i, ok := at[ref.UID]
		if !ok {
			i = len(list.Items)
			at[ref.UID] = i
			pod := corev1.Pod{}
			pod.Namespace, pod.Name, pod.UID = ref.Namespace, ref.Name, uid(ref.UID)
			list.Items = append(list.Items, pod)
		}
		pod := &list.Items[i]
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
	}
	writeJSON(w, list)
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	cfg := s.cfg.Configuration
	if cfg == nil {
		cfg = struct{}{}
	}
	writeJSON(w, map[string]any{"kubeletconfig": cfg})
}

// checkpoint has the runtime write a running container's state to an archive
// and answers with its path (KEP-2008).
func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) {
	namespace, pod, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	ref, err := s.cfg.Node.Container(namespace, pod, "", container, false)
	if err != nil || s.cfg.CheckpointDir == "" {
		refuse(w, fmt.Sprintf("container %q of pod %q not found", container, pod), http.StatusNotFound)
		return
	}
	var timeout int64
	if t := r.URL.Query().Get("timeout"); t != "" {
		if timeout, err = strconv.ParseInt(t, 10, 64); err != nil {
			refuse(w, "parsing timeout: "+err.Error(), http.StatusInternalServerError)
			return
		}
	}
	if err := os.MkdirAll(s.cfg.CheckpointDir, 0o700); err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	// The names are a pod's: without separators.
	path := filepath.Join(s.cfg.CheckpointDir, fmt.Sprintf("checkpoint-%s_%s-%s-%s.tar", pod, namespace, container, time.Now().Format(time.RFC3339)))
	_, err = s.cfg.Runtime.CheckpointContainer(r.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: ref.ID, Location: path, Timeout: timeout})
	if err != nil {
		code := http.StatusInternalServerError
		if status.Code(err) == codes.Unimplemented {
			code = http.StatusNotFound
		}
		refuse(w, fmt.Sprintf("checkpointing of %s/%s/%s failed (%v)", namespace, pod, container, err), code)
		return
	}
	writeJSON(w, map[string][]string{"items": {path}})
}

// systemLogs serves the node's log folder and nothing that a symbolic link in
// it leads to outside, and queries of logs where they are allowed.
func (s *Server) systemLogs(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot(s.cfg.SystemLogs)
	if err != nil {
		refuse(w, err.Error(), http.StatusNotFound)
		return
	}
	defer root.Close()
	if s.cfg.LogQuery && s.queryLogs(w, r, root) {
		return
	}
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		refuse(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
