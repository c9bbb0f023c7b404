// Package oidc authenticates users of OpenID Connect issuers: an
// AuthenticationConfiguration (or the --oidc-* flags) and JSON Web Tokens go
// in, users come out. It also says where anonymous users are let in, which
// the same file configures.
package oidc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/reloads"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/filewatch"
	"github.com/coxswain/cox/internal/memo"
)

// Config says where the configuration is and what goes with it.
type Config struct {
	// Path is the file of the AuthenticationConfiguration; "" takes Fixed.
	Path  string
	Fixed *configv1.AuthenticationConfiguration
	// Algorithms are those that may sign a token; nil means all that are
	// safe. With the flags it is --oidc-signing-algs.
	Algorithms []string
	// Audiences are the API server's own, in whose name tokens are accepted.
	Audiences []string
	// Taken are issuers that no configuration may name: the server's own.
	Taken []string
	// Anonymous is asked where the configuration says nothing of anonymous
	// users; nil lets none in.
	Anonymous authn.Authenticator
	Log       *slog.Logger
	Now       func() time.Time
	// Reloads counts what becomes of the file's changes; nil is nothing.
	Reloads *reloads.Metrics
}

// Authenticator is the configuration in force. It is safe for concurrent use.
type Authenticator struct {
	cfg     Config
	current atomic.Pointer[set]
}

type set struct {
	data      []byte
	issuers   map[string]*issuer
	anonymous *configv1.AnonymousAuthConfig
}

// Algorithms are the signature algorithms that may be allowed: those with
// public keys.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}
}

// Open reads and checks the configuration. Issuers are asked for their keys
// when their first tokens come.
func Open(cfg Config) (*Authenticator, error) {
	for _, a := range cfg.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			return nil, fmt.Errorf("signing algorithm %q is not one of %s", a, strings.Join(Algorithms(), ", "))
		}
	}
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = Algorithms()
	}
	a := &Authenticator{cfg: cfg}
	s, err := a.load()
	if err != nil {
		return nil, err
	}
	a.current.Store(s)
	if cfg.Path != "" {
		cfg.Reloads.InForce(sha256.Sum256(s.data))
	}
	return a, nil
}

func (a *Authenticator) load() (*set, error) {
	if a.cfg.Path == "" {
		return a.build(a.cfg.Fixed)
	}
	data, err := os.ReadFile(a.cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("read the authentication configuration: %w", err)
	}
	c, err := Parse(data)
	if err == nil {
		var s *set
		if s, err = a.build(c); err == nil {
			s.data = data
			return s, nil
		}
	}
	return nil, fmt.Errorf("authentication configuration %s: %w", a.cfg.Path, err)
}

func (a *Authenticator) build(c *configv1.AuthenticationConfiguration) (*set, error) {
	errs := check(c, a.cfg.Taken)
	s := &set{issuers: map[string]*issuer{}, anonymous: c.Anonymous}
	for i := range c.JWT {
		j := &c.JWT[i]
		m, bad := newMapper(j, field.NewPath("jwt").Index(i))
		errs = append(errs, bad...)
		discovery := ""
		if j.Issuer.DiscoveryURL != nil {
			discovery = *j.Issuer.DiscoveryURL
		}
		is := &issuer{
			a: a, audiences: j.Issuer.Audiences, mapper: m,
			keys: newKeySet(j.Issuer.URL, discovery, j.Issuer.CertificateAuthority, a.cfg.Now),
			seen: memo.New[[sha256.Size]byte, verdict](4096),
		}
		if claim := j.ClaimMappings.Groups.Claim; claim != "" {
			is.groups = &distributed{claim: claim, is: is}
		}
		s.issuers[j.Issuer.URL] = is
	}
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return s, nil
}

// Run follows the file until ctx ends. What is not valid is not taken over.
func (a *Authenticator) Run(ctx context.Context) error {
	if a.cfg.Path == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	return filewatch.Run(ctx, func() {
		s, err := a.load()
		if err != nil {
			a.cfg.Reloads.Failed()
			a.cfg.Log.Error("the authentication configuration is not taken over; the one before stays in force", "error", err)
			return
		}
		old := a.current.Load()
		if bytes.Equal(s.data, old.data) {
			return
		}
		a.current.Store(s)
		for _, i := range old.issuers {
			i.keys.close()
		}
		a.cfg.Reloads.Taken(sha256.Sum256(s.data))
		a.cfg.Log.Info("took over the new authentication configuration", "path", a.cfg.Path)
	}, a.cfg.Path)
}

// ConfiguresAnonymous says whether the configuration speaks of anonymous users.
func (a *Authenticator) ConfiguresAnonymous() bool { return a.current.Load().anonymous != nil }

// Anonymous lets in whom the configuration lets in without credentials.
func (a *Authenticator) Anonymous() authn.Authenticator {
	return authn.Func(func(r *http.Request) (client.User, bool, error) {
		c := a.current.Load().anonymous
		switch {
		case c == nil && a.cfg.Anonymous != nil:
			return a.cfg.Anonymous.Authenticate(r)
		case c == nil || !c.Enabled:
			return client.User{}, false, nil
		case len(c.Conditions) > 0 && !slices.ContainsFunc(c.Conditions, func(x configv1.AnonymousAuthCondition) bool { return x.Path == r.URL.Path }):
			return client.User{}, false, nil
		}
		return authn.AnonymousUser(), true, nil
	})
}

// AuthenticateToken implements authn.TokenAuthenticator.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string, audiences []string) (*authn.TokenResult, bool, error) {
	name, ok := issuerOf(token)
	if !ok {
		return nil, false, nil
	}
	is, ok := a.current.Load().issuers[name]
	if !ok {
		return nil, false, nil
	}
	u, err := is.user(ctx, token)
	if err != nil {
		return nil, false, fmt.Errorf("oidc: token of issuer %s: %w", name, err)
	}
	return authn.ForAPI(u, a.cfg.Audiences, audiences)
}

// issuerOf reads who claims to have issued a token; nothing is verified.
func issuerOf(token string) (string, bool) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return "", false
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", false
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(data, &claims) != nil || claims.Issuer == "" {
		return "", false
	}
	return claims.Issuer, true
}

// issuer knows the tokens of one issuer.
type issuer struct {
	a         *Authenticator
	audiences []string
	mapper    *mapper
	keys      *keySet
	groups    *distributed // nil without a claim of groups
	seen      *memo.Memo[[sha256.Size]byte, verdict]
}

// verdict is a token that was good.
type verdict struct {
	user  client.User
	until time.Time
}

// remembered is how long a verdict is, at most: an issuer's withdrawn key
// counts no longer than that.
const remembered = 10 * time.Second

func (i *issuer) user(ctx context.Context, token string) (client.User, error) {
	now := i.a.cfg.Now()
	sum := sha256.Sum256([]byte(token))
	if v, ok := i.seen.Get(sum); ok && now.Before(v.until) {
		return v.user, nil
	}
	payload, err := i.verify(ctx, i.keys, token)
	if err != nil {
		return client.User{}, err
	}
	expires, err := i.standard(i.keys.issuer, payload, now)
	if err != nil {
		return client.User{}, err
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		return client.User{}, errors.New("its claims are no JSON object")
	}
	if i.groups != nil {
		until, err := i.groups.resolve(ctx, payload, claims, now)
		if err != nil {
			return client.User{}, err
		}
		if !until.IsZero() && until.Before(expires) {
			expires = until
		}
	}
	u, err := i.mapper.user(ctx, claims)
	if err != nil {
		return client.User{}, err
	}
	if id, ok := claims["jti"].(string); ok && id != "" {
		extra := map[string][]string{authn.ExtraCredentialID: {"JTI=" + id}}
		for k, v := range u.Extra {
			extra[k] = v
		}
		u.Extra = extra
	}
	until := now.Add(remembered)
	if expires.Before(until) {
		until = expires
	}
	i.seen.Put(sum, verdict{u, until})
	return u, nil
}

// verify checks the signature by keys and returns the payload.
func (i *issuer) verify(ctx context.Context, keys *keySet, token string) ([]byte, error) {
	algorithms := make([]jose.SignatureAlgorithm, len(i.a.cfg.Algorithms))
	for n, name := range i.a.cfg.Algorithms {
		algorithms[n] = jose.SignatureAlgorithm(name)
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, errors.New("it is malformed, or signed with an algorithm that is not allowed")
	}
	head := jws.Signatures[0].Header
	found, err := keys.find(ctx, head.KeyID)
	if err != nil {
		return nil, err
	}
	for _, k := range found {
		if k.Algorithm != "" && k.Algorithm != head.Algorithm {
			continue
		}
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("its signature is not good")
}

// leeway is how far an issuer's clock may run ahead.
const leeway = 5 * time.Minute

// standard checks the claims that every token must have (OpenID Connect Core
// 1.0, 3.1.3.7) and returns when it expires.
func (i *issuer) standard(name string, payload []byte, now time.Time) (time.Time, error) {
	var c struct {
		Issuer    string    `json:"iss"`
		Audience  audiences `json:"aud"`
		Expires   *float64  `json:"exp"`
		NotBefore *float64  `json:"nbf"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return time.Time{}, errors.New("a standard claim is of another type than it must be")
	}
	switch {
	case c.Issuer != name:
		return time.Time{}, errors.New("it is another issuer's")
	case !slices.ContainsFunc(i.audiences, func(a string) bool { return slices.Contains(c.Audience, a) }):
		return time.Time{}, fmt.Errorf("it is for none of the audiences %q", i.audiences)
	case c.Expires == nil:
		return time.Time{}, errors.New("it never expires")
	case c.NotBefore != nil && now.Add(leeway).Before(unix(*c.NotBefore)):
		return time.Time{}, errors.New("it is not valid yet")
	}
	expires := unix(*c.Expires)
	if !now.Before(expires) {
		return time.Time{}, errors.New("it has expired")
	}
	return expires, nil
}

func unix(seconds float64) time.Time {
	const most = 1 << 40 // beyond it, time overflows
	return time.Unix(int64(min(max(seconds, -most), most)), 0)
}

// audiences is one string or a list of them (RFC 7519, 4.1.3).
type audiences []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}
