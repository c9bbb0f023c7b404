package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/memo"
)

// secureServing is the HTTPS port on which a component that runs alone tells of
// itself, by upstream's flags. Who asks is authenticated by client certificate
// or by a TokenReview, and authorized by a SubjectAccessReview of the path.
type secureServing struct {
	bind                       string
	port                       int
	certFile, keyFile, certDir string
	clientCA                   string
	proxyCA                    string // of front proxies
	proxyNames                 []string
	authnConf, authzConf       string
	skipLookup                 bool
	open                       []string // paths that everybody may ask for
	tokenTTL                   time.Duration
	speaks                     tlsFlags
	allowedTTL, deniedTTL      time.Duration
}

func (s *secureServing) flags(fs *pflag.FlagSet, port int) {
	fs.StringVar(&s.bind, "bind-address", "0.0.0.0", "address of --secure-port")
	fs.IntVar(&s.port, "secure-port", port, "HTTPS port of metrics and health (0: none)")
	s.speaks.flags(fs)
	fs.StringVar(&s.certFile, "tls-cert-file", "", "its certificate (default: one signed by itself)")
	fs.StringVar(&s.keyFile, "tls-private-key-file", "", "the key of --tls-cert-file")
	fs.StringVar(&s.certDir, "cert-dir", "", "folder in which a certificate signed by itself is kept (default: it is made anew with every start)")
	fs.StringVar(&s.clientCA, "client-ca-file", "", "authority of the client certificates that are accepted (default: the cluster's, by --authentication-kubeconfig)")
	fs.StringVar(&s.proxyCA, "requestheader-client-ca-file", "", "authority of the proxies that may say in X-Remote-User and the like whose request they pass on")
	fs.StringSliceVar(&s.proxyNames, "requestheader-allowed-names", nil, "what such a proxy may be called (default: anything)")
	fs.StringVar(&s.authnConf, "authentication-kubeconfig", "", "how tokens are reviewed (none: no token is accepted)")
	fs.BoolVar(&s.skipLookup, "authentication-skip-lookup", false, "do not look the cluster's authority of client certificates up")
	fs.DurationVar(&s.tokenTTL, "authentication-token-webhook-cache-ttl", 10*time.Second, "how long reviews of tokens are believed")
	fs.StringVar(&s.authzConf, "authorization-kubeconfig", "", "how it is asked who may see what (none: nobody but system:masters)")
	fs.StringSliceVar(&s.open, "authorization-always-allow-paths", []string{"/healthz", "/readyz", "/livez"}, "paths that everybody may ask for")
	fs.DurationVar(&s.allowedTTL, "authorization-webhook-cache-authorized-ttl", 10*time.Second, "how long it is believed that something is allowed")
	fs.DurationVar(&s.deniedTTL, "authorization-webhook-cache-unauthorized-ttl", 10*time.Second, "how long it is believed that something is not")
}

// listen opens the port; nil, without an error, if there is to be none.
func (s *secureServing) listen(name string) (net.Listener, error) {
	if s.port == 0 {
		return nil, nil
	}
	certificate := func() (tls.Certificate, error) { return tls.LoadX509KeyPair(s.certFile, s.keyFile) }
	if s.certFile == "" {
		dir := s.certDir
		if dir == "" {
			made, err := os.MkdirTemp("", "cox-"+name)
			if err != nil {
				return nil, err
			}
			defer os.RemoveAll(made)
			dir = made
		}
		host, _ := os.Hostname()
		own, err := ownCertificate(filepath.Join(dir, name), host, []string{"127.0.0.1", "::1"})
		if err != nil {
			return nil, fmt.Errorf("--cert-dir: %w", err)
		}
		certificate = func() (tls.Certificate, error) { return *own, nil }
	}
	if _, err := certificate(); err != nil {
		return nil, fmt.Errorf("--tls-cert-file, --tls-private-key-file: %w", err)
	}
	speaks, err := s.speaks.config()
	if err != nil {
		return nil, err
	}
	speaks.ClientAuth = tls.RequestClientCert
	speaks.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := certificate() // which may have been renewed
		return &c, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.bind, strconv.Itoa(s.port)))
	if err != nil {
		return nil, fmt.Errorf("--secure-port: %w", err)
	}
	return tls.NewListener(l, speaks), nil
}

// guard lets through to next who may ask.
func (s *secureServing) guard(next http.Handler, log *slog.Logger) (http.Handler, error) {
	var all []authn.Authenticator
	authority := &clientAuthority{}
	var err error
	if s.proxyCA != "" {
		proxies, err := poolOf(s.proxyCA)
		if err != nil {
			return nil, fmt.Errorf("--requestheader-client-ca-file: %w", err)
		}
		all = append(all, authn.FrontProxy(proxies, s.proxyNames, time.Now))
	}
	if s.clientCA != "" {
		if authority.pool, err = poolOf(s.clientCA); err != nil {
			return nil, fmt.Errorf("--client-ca-file: %w", err)
		}
	}
	if s.authnConf != "" {
		door, err := doorOf(s.authnConf)
		if err != nil {
			return nil, fmt.Errorf("--authentication-kubeconfig: %w", err)
		}
		if s.clientCA == "" && !s.skipLookup {
			authority.door = door
		}
		all = append(all, authn.Bearer(&tokenReviews{door: door, ttl: s.tokenTTL, seen: memo.New[[32]byte, reviewed](1024)}))
	}
	all = append(all, authority)
	judges := []authz.Authorizer{authz.Masters()}
	if s.authzConf != "" {
		door, err := doorOf(s.authzConf)
		if err != nil {
			return nil, fmt.Errorf("--authorization-kubeconfig: %w", err)
		}
		judges = append(judges, &accessReviews{door: door, allowed: s.allowedTTL, denied: s.deniedTTL, seen: memo.New[[32]byte, judged](1024)})
	}
	return &guarded{who: authn.Union(authn.AnonymousEverywhere(), all...), may: authz.Union(judges...), open: s.open, next: next, log: log}, nil
}

func poolOf(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", file)
	}
	return pool, nil
}

func doorOf(kubeconfig string) (client.Interface, error) {
	conf, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	conf.QPS = -1 // the server's flow control knows better
	return client.Remote(conf)
}

// guarded answers requests of those who may make them.
type guarded struct {
	who  authn.Authenticator
	may  authz.Authorizer
	open []string
	next http.Handler
	log  *slog.Logger
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, ok, err := g.who.Authenticate(r)
	if err != nil || !ok {
		g.log.Debug("a request was not authenticated", "path", r.URL.Path, "error", err)
		refuse(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
		return
	}
	open := slices.ContainsFunc(g.open, func(p string) bool {
		prefix, all := strings.CutSuffix(p, "*")
		return p == r.URL.Path || all && strings.HasPrefix(r.URL.Path, prefix)
	})
	if !open {
		verb := strings.ToLower(r.Method)
		decision, reason, err := g.may.Authorize(r.Context(), &authz.Attributes{User: user, Verb: verb, Path: r.URL.Path})
		switch {
		case decision == authz.Allow:
		case err != nil:
			g.log.Warn("it cannot be asked who may see this", "path", r.URL.Path, "error", err)
			refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "Internal Server Error: "+strconv.Quote(r.URL.Path)+": the authorization failed")
			return
		default:
			message := fmt.Sprintf("forbidden: User %q cannot %s path %q", user.Name, verb, r.URL.Path)
			if reason != "" {
				message += ": " + reason
			}
			refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, message)
			return
		}
	}
	g.next.ServeHTTP(w, r)
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(&metav1.Status{ // the client has gone, if this fails
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Reason: reason, Message: message, Code: int32(code),
	})
}

// clientAuthority authenticates by client certificate: of the authority that it
// was given, or of the cluster's, which it looks up when it is first shown one
// and, at most once a minute, when one is not of that.
type clientAuthority struct {
	door client.Interface // nil: the pool is all

	mu     sync.Mutex
	pool   *x509.CertPool // nil: none is known
	looked time.Time
}

func (a *clientAuthority) Authenticate(r *http.Request) (client.User, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return client.User{}, false, nil
	}
	try := func(pool *x509.CertPool) (client.User, bool, error) {
		if pool == nil {
			return client.User{}, false, nil
		}
		return authn.ClientCert(pool, time.Now).Authenticate(r)
	}
	a.mu.Lock()
	pool := a.pool
	a.mu.Unlock()
	user, ok, err := try(pool)
	if ok || a.door == nil {
		return user, ok, err
	}
	fresh, bad := a.look(r.Context())
	if bad != nil {
		return client.User{}, false, errors.Join(err, bad)
	}
	return try(fresh)
}

func (a *clientAuthority) look(ctx context.Context) (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.looked) < time.Minute {
		return a.pool, nil
	}
	a.looked = time.Now()
	published, err := client.ConfigMaps.In(a.door, metav1.NamespaceSystem).Get(ctx, "extension-apiserver-authentication")
	if err != nil {
		return nil, fmt.Errorf("the authority of client certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if pool.AppendCertsFromPEM([]byte(published.Data["client-ca-file"])) {
		a.pool = pool
	}
	return a.pool, nil
}

// tokenReviews is an authn.TokenAuthenticator that asks the API server.
type tokenReviews struct {
	door client.Interface
	ttl  time.Duration
	seen *memo.Memo[[32]byte, reviewed]
}

type reviewed struct {
	user  client.User
	until time.Time
}

func (t *tokenReviews) AuthenticateToken(ctx context.Context, token string, audiences []string) (*authn.TokenResult, bool, error) {
	key := sha256.Sum256([]byte(token))
	if v, ok := t.seen.Get(key); ok && time.Now().Before(v.until) {
		return &authn.TokenResult{User: v.user}, true, nil
	}
	res, err := t.door.Do(ctx, &client.Request{
		Verb: client.Create, Resource: schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "tokenreviews"},
		Object: &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}},
	})
	if err != nil {
		return nil, false, fmt.Errorf("review a token: %w", err)
	}
	review, ok := res.Object.(*authenticationv1.TokenReview)
	if !ok || !review.Status.Authenticated {
		return nil, false, errors.New("the token is not valid")
	}
	user := client.User{Name: review.Status.User.Username, UID: review.Status.User.UID, Groups: review.Status.User.Groups, Extra: map[string][]string{}}
	for k, v := range review.Status.User.Extra {
		user.Extra[k] = v
	}
	t.seen.Put(key, reviewed{user, time.Now().Add(t.ttl)})
	return &authn.TokenResult{User: user}, true, nil
}

// accessReviews is an authz.Authorizer of paths that asks the API server.
type accessReviews struct {
	door            client.Interface
	allowed, denied time.Duration
	seen            *memo.Memo[[32]byte, judged]
}

type judged struct {
	decision authz.Decision
	reason   string
	until    time.Time
}

func (a *accessReviews) Authorize(ctx context.Context, attrs *authz.Attributes) (authz.Decision, string, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: attrs.User.Name, UID: attrs.User.UID, Groups: attrs.User.Groups,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: attrs.Path, Verb: attrs.Verb},
	}
	for k, v := range attrs.User.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[k] = v
	}
	text, err := json.Marshal(spec) // with its maps in order
	if err != nil {
		return authz.NoOpinion, "", err
	}
	key := sha256.Sum256(text)
	if v, ok := a.seen.Get(key); ok && time.Now().Before(v.until) {
		return v.decision, v.reason, nil
	}
	res, err := a.door.Do(ctx, &client.Request{
		Verb: client.Create, Resource: schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"},
		Object: &authorizationv1.SubjectAccessReview{Spec: spec},
	})
	if err != nil {
		return authz.NoOpinion, "", fmt.Errorf("review an access: %w", err)
	}
	review, ok := res.Object.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return authz.NoOpinion, "", fmt.Errorf("review an access: the answer is a %T", res.Object)
	}
	v := judged{authz.NoOpinion, review.Status.Reason, time.Now().Add(a.denied)}
	if review.Status.Allowed {
		v.decision, v.until = authz.Allow, time.Now().Add(a.allowed)
	}
	a.seen.Put(key, v)
	return v.decision, v.reason, nil
}
