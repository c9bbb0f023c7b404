package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
)

var errNoCredential = errors.New("the request carries neither a client certificate nor a token")

// How long answers of the API server are believed, as upstream's kubelet
// does by default.
const (
	tokenTTL   = 2 * time.Minute
	allowedTTL = 5 * time.Minute
	deniedTTL  = 30 * time.Second
	maxCached  = 4096
)

// cache keeps answers for a time. When full it forgets everything: it only
// saves questions.
type cache[V any] struct {
	mu sync.Mutex
	m  map[[32]byte]cached[V]
}

type cached[V any] struct {
	v     V
	until time.Time
}

func (c *cache[V]) get(key [32]byte) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[key]
	if !ok || time.Now().After(e.until) {
		return v, false
	}
	return e.v, true
}

func (c *cache[V]) put(key [32]byte, v V, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCached {
		c.m = map[[32]byte]cached[V]{}
	}
	c.m[key] = cached[V]{v, time.Now().Add(ttl)}
}

// authenticator finds out who makes a request. There is no anonymous user
// unless that was asked for.
type authenticator struct {
	client              client.Interface
	anonymous, noTokens bool
	ttl                 time.Duration
	tokens              cache[client.User]
}

func (a *authenticator) authenticate(r *http.Request) (client.User, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		cert := r.TLS.PeerCertificates[0]
		if cert.Subject.CommonName == "" {
			return client.User{}, errors.New("the client certificate names no user")
		}
		groups := append([]string(nil), cert.Subject.Organization...)
		return client.User{Name: cert.Subject.CommonName, Groups: append(groups, "system:authenticated")}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "bearer") || token == "" || a.client == nil || a.noTokens {
		if a.anonymous && r.Header.Get("Authorization") == "" {
			return client.User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, nil
		}
		return client.User{}, errNoCredential
	}
	key := sha256.Sum256([]byte(token))
	if u, ok := a.tokens.get(key); ok {
		return u, nil
	}
	res, err := a.client.Do(r.Context(), &client.Request{
		Verb: client.Create, Resource: schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "tokenreviews"},
		Object: &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}},
	})
	if err != nil {
		return client.User{}, fmt.Errorf("review a token: %w", err)
	}
	review, ok := res.Object.(*authenticationv1.TokenReview)
	if !ok {
		return client.User{}, fmt.Errorf("review a token: the answer is a %T", res.Object)
	}
	if !review.Status.Authenticated {
		return client.User{}, errors.New("the token is not valid")
	}
	u := client.User{Name: review.Status.User.Username, UID: review.Status.User.UID, Groups: review.Status.User.Groups}
	if len(review.Status.User.Extra) > 0 {
		u.Extra = map[string][]string{}
		for k, v := range review.Status.User.Extra {
			u.Extra[k] = v
		}
	}
	a.tokens.put(key, u, a.ttl)
	return u, nil
}

// deniedError is a refusal; its text goes to the user.
type deniedError struct{ user, verb, subresource, reason string }

func (e *deniedError) Error() string {
	return fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[%s])%s", e.user, e.verb, e.subresource, e.reason)
}

// authorizer maps requests to attributes of the node resource, as the page
// "Kubelet authentication/authorization" of the Kubernetes documentation has
// them, and asks the API server about these.
type authorizer struct {
	ask  func(ctx context.Context, user client.User, verb, path, subresource string) (bool, string, error)
	node string
	// How long answers are believed.
	allowed, denied time.Duration
	answers         cache[verdict]
}

type verdict struct {
	allowed bool
	reason  string
}

func newAuthorizer(cfg Config) *authorizer {
	a := &authorizer{ask: cfg.Authorize, node: cfg.Node.NodeName(), allowed: cmp.Or(cfg.AllowedTTL, allowedTTL), denied: cmp.Or(cfg.DeniedTTL, deniedTTL)}
	if cfg.AlwaysAllow {
		a.ask = func(context.Context, client.User, string, string, string) (bool, string, error) { return true, "", nil }
	}
	if a.ask == nil {
		a.ask = func(ctx context.Context, user client.User, verb, _, subresource string) (bool, string, error) {
			return review(ctx, cfg.Client, a.node, user, verb, subresource)
		}
	}
	return a
}

// check returns nil if any of the request's attributes is allowed.
func (a *authorizer) check(r *http.Request, user client.User) error {
	verb, subresources := attributes(r)
	var reason string
	for _, sub := range subresources {
		key := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q", user.Name, user.UID, user.Groups, user.Extra, verb, sub))
		v, ok := a.answers.get(key)
		if !ok {
			var err error
			if v.allowed, v.reason, err = a.ask(r.Context(), user, verb, r.URL.Path, sub); err != nil {
				return err
			}
			ttl := a.denied
			if v.allowed {
				ttl = a.allowed
			}
			a.answers.put(key, v, ttl)
		}
		if v.allowed {
			return nil
		}
		if v.reason != "" {
			reason = ": " + v.reason
		}
	}
	return &deniedError{user.Name, verb, strings.Join(subresources, " "), reason}
}

// attributes names the verb and the subresources of nodes of which one must
// be allowed.
func attributes(r *http.Request) (verb string, subresources []string) {
	verb = map[string]string{"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[r.Method]
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch first {
	case "stats":
		return verb, []string{"stats"}
	case "metrics":
		return verb, []string{"metrics"}
	case "logs":
		return verb, []string{"log"}
	case "checkpoint":
		return verb, []string{"checkpoint"}
	case "healthz", "configz", "pods", "statusz":
		return verb, []string{first, "proxy"}
	case "flagz":
		return verb, []string{"configz", "proxy"}
	case "runningpods":
		return verb, []string{"pods", "proxy"}
	case "exec", "attach", "run", "portForward":
		// A WebSocket begins with GET but does what POST does.
		return "create", []string{"proxy"}
	}
	return verb, []string{"proxy"}
}

// review asks the API server.
func review(ctx context.Context, c client.Interface, node string, user client.User, verb, subresource string) (bool, string, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: user.Name, UID: user.UID, Groups: user.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: node,
		},
	}
	for k, v := range user.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[k] = v
	}
	res, err := c.Do(ctx, &client.Request{
		Verb: client.Create, Resource: schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"},
		Object: &authorizationv1.SubjectAccessReview{Spec: spec},
	})
	if err != nil {
		return false, "", fmt.Errorf("review access: %w", err)
	}
	sar, ok := res.Object.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return false, "", fmt.Errorf("review access: the answer is a %T", res.Object)
	}
	return sar.Status.Allowed, sar.Status.Reason, nil
}
