package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/coxswain/cox/client"
)

// Names that authentication gives out.
const (
	Anonymous            = "system:anonymous"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"

	// ExtraCredentialID tells which credential was shown ("JTI=...",
	// "X509SHA256=...").
	ExtraCredentialID = "authentication.kubernetes.io/credential-id"
)

// ErrInvalidToken is the answer to a bearer token that no one knows.
var ErrInvalidToken = errors.New("invalid bearer token")

// Union asks each authenticator in turn. The first that knows the credential
// settles who it is, and the user gets the group system:authenticated. A bad
// credential counts only if no other credential of the request is good;
// then no one is let in as anonymous either. anonymous may be nil.
func Union(anonymous Authenticator, all ...Authenticator) Authenticator {
	return Func(func(r *http.Request) (client.User, bool, error) {
		var errs []error
		for _, a := range all {
			user, ok, err := a.Authenticate(r)
			if err != nil {
				errs = append(errs, err)
			} else if ok {
				return authenticated(user), true, nil
			}
		}
		if len(errs) > 0 || anonymous == nil {
			return client.User{}, false, errors.Join(errs...)
		}
		return anonymous.Authenticate(r)
	})
}

func authenticated(u client.User) client.User {
	if u.Name == Anonymous || slices.Contains(u.Groups, GroupAuthenticated) || slices.Contains(u.Groups, GroupUnauthenticated) {
		return u
	}
	u.Groups = append(slices.Clip(u.Groups), GroupAuthenticated) // a copy: the groups are shared
	return u
}

// AnonymousAt lets requests without credentials in as system:anonymous, on
// exactly these paths.
func AnonymousAt(paths ...string) Authenticator {
	return Func(func(r *http.Request) (client.User, bool, error) {
		if !slices.Contains(paths, r.URL.Path) {
			return client.User{}, false, nil
		}
		return AnonymousUser(), true, nil
	})
}

// AnonymousUser is who makes a request without credentials.
func AnonymousUser() client.User {
	return client.User{Name: Anonymous, Groups: []string{GroupUnauthenticated}}
}

// AnonymousEverywhere lets every request without credentials in as
// system:anonymous; authorization decides what it may.
func AnonymousEverywhere() Authenticator {
	return Func(func(*http.Request) (client.User, bool, error) { return AnonymousUser(), true, nil })
}

// HealthPaths are what anonymous users may ask for: health and version.
func HealthPaths() []string {
	return []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}
}

// TokenResult is what a token says.
type TokenResult struct {
	User client.User
	// Audiences are those of the token that were asked for.
	Audiences []string
}

// TokenAuthenticator knows bearer tokens. audiences are those that the asker
// stands for; none means the API server's own. Like an Authenticator it
// returns ok false for a token that is not of its kind, and an error for one
// that is and is not valid; the error never quotes the token.
type TokenAuthenticator interface {
	AuthenticateToken(ctx context.Context, token string, audiences []string) (res *TokenResult, ok bool, err error)
}

// TokenUnion asks each in turn, as Union does.
func TokenUnion(all ...TokenAuthenticator) TokenAuthenticator { return tokenUnion(all) }

type tokenUnion []TokenAuthenticator

func (u tokenUnion) AuthenticateToken(ctx context.Context, token string, audiences []string) (*TokenResult, bool, error) {
	var errs []error
	for _, a := range u {
		res, ok, err := a.AuthenticateToken(ctx, token, audiences)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			out := *res
			out.User = authenticated(out.User)
			return &out, true, nil
		}
	}
	return nil, false, errors.Join(errs...)
}

// Bearer authenticates by the token in the Authorization header, or, since
// browsers cannot set that on a WebSocket, in its sub-protocol
// base64url.bearer.authorization.k8s.io.TOKEN. A token that was good is
// removed from the request, so that it does not reach an aggregated server.
func Bearer(tokens TokenAuthenticator) Authenticator {
	return Func(func(r *http.Request) (client.User, bool, error) {
		token, remove, err := bearerToken(r)
		if token == "" || err != nil {
			return client.User{}, false, err
		}
		res, ok, err := tokens.AuthenticateToken(r.Context(), token, nil)
		if err != nil {
			return client.User{}, false, err
		}
		if !ok {
			return client.User{}, false, ErrInvalidToken
		}
		remove()
		return res.User, true, nil
	})
}

const bearerProtocol = "base64url.bearer.authorization.k8s.io."

func bearerToken(r *http.Request) (token string, remove func(), err error) {
	if kind, rest, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " "); ok && strings.EqualFold(kind, "bearer") {
		return strings.TrimSpace(rest), func() { r.Header.Del("Authorization") }, nil
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", nil, nil
	}
	var others []string
	for _, line := range r.Header[textproto.CanonicalMIMEHeaderKey("Sec-WebSocket-Protocol")] {
		for p := range strings.SplitSeq(line, ",") {
			p = strings.TrimSpace(p)
			encoded, isToken := strings.CutPrefix(p, bearerProtocol)
			if !isToken {
				others = append(others, p)
				continue
			}
			data, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || !utf8.Valid(data) {
				return "", nil, ErrInvalidToken
			}
			if token != "" {
				return "", nil, errors.New("multiple base64.bearer.authorization tokens specified")
			}
			token = string(data)
		}
	}
	if token != "" && len(others) == 0 {
		return "", nil, errors.New("missing additional subprotocol")
	}
	return token, func() { r.Header.Set("Sec-WebSocket-Protocol", strings.Join(others, ",")) }, nil
}
