package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/client"
)

// provider is an issuer with a real server.
type provider struct {
	srv *httptest.Server

	mu     sync.Mutex
	keys   map[string]crypto.Signer
	issuer string // what the discovery document says
	asked  int
	broken bool
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{keys: map[string]crypto.Signer{}}
	mux := http.NewServeMux()
	p.srv = httptest.NewTLSServer(mux)
	t.Cleanup(p.srv.Close)
	p.issuer = p.srv.URL
	doc := func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked++
		if p.broken {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.issuer, "jwks_uri": p.srv.URL + "/keys"})
	}
	mux.HandleFunc("/.well-known/openid-configuration", doc)
	mux.HandleFunc("/elsewhere", doc)
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		var set jose.JSONWebKeySet
		for id, k := range p.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id, Use: "sig"})
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	p.rotate(t, "k1")
	return p
}

// rotate makes id the only key.
func (p *provider) rotate(t *testing.T, id string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = map[string]crypto.Signer{id: k}
}

func (p *provider) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.srv.Certificate().Raw}))
}

// sign makes a token of the claims with the key there is.
func (p *provider) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, k := range p.keys {
		return signWith(t, k, id, claims)
	}
	return ""
}

func signWith(t *testing.T, k any, id string, claims map[string]any) string {
	t.Helper()
	alg := jose.ES256
	if _, ok := k.([]byte); ok {
		alg = jose.HS256
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: k, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// with returns claims with changes; a nil value removes one.
func with(claims map[string]any, changes map[string]any) map[string]any {
	out := maps.Clone(claims)
	for k, v := range changes {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}

// configuration reads YAML of one jwt entry's mappings and rules.
func (p *provider) configuration(t *testing.T, text string) *configv1.AuthenticationConfiguration {
	t.Helper()
	var j configv1.JWTAuthenticator
	if err := yaml.UnmarshalStrict([]byte(text), &j); err != nil {
		t.Fatal(err)
	}
	if j.Issuer.URL == "" {
		j.Issuer.URL = p.srv.URL
	}
	j.Issuer.CertificateAuthority = p.ca()
	if len(j.Issuer.Audiences) == 0 {
		j.Issuer.Audiences = []string{"me"}
	}
	return &configv1.AuthenticationConfiguration{JWT: []configv1.JWTAuthenticator{j}}
}

func open(t *testing.T, cfg Config) *Authenticator {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Audiences = []string{"api"}
	a, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (p *provider) claims() map[string]any {
	return map[string]any{
		"iss": p.srv.URL, "aud": "me", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		"sub": "ann", "email": "ann@x", "groups": []string{"a", "b"}, "roles": "r1,r2", "jti": "7", "admin": true, "deep": map[string]any{"x": 3},
	}
}

const plain = "claimMappings: {username: {claim: sub, prefix: 'oidc:'}, groups: {claim: groups, prefix: 'g:'}}\n"

func TestMappings(t *testing.T) {
	p := newProvider(t)
	id := map[string][]string{authn.ExtraCredentialID: {"JTI=7"}}
	for name, tc := range map[string]struct {
		config  string
		changes map[string]any
		want    client.User // no name: refused
	}{
		"claims":            {plain, nil, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"one group":         {plain, map[string]any{"groups": "a"}, client.User{Name: "oidc:ann", Groups: []string{"g:a"}, Extra: id}},
		"no groups":         {plain, map[string]any{"groups": nil}, client.User{Name: "oidc:ann", Extra: id}},
		"groups of numbers": {plain, map[string]any{"groups": []int{1}}, client.User{}},
		"no name":           {plain, map[string]any{"sub": nil}, client.User{}},
		"empty name":        {plain, map[string]any{"sub": ""}, client.User{}},
		"name as a number":  {plain, map[string]any{"sub": 7}, client.User{}},
		"uid":               {"claimMappings: {username: {claim: sub, prefix: ''}, uid: {claim: jti}}", nil, client.User{Name: "ann", UID: "7", Extra: id}},
		"no uid":            {"claimMappings: {username: {claim: sub, prefix: ''}, uid: {claim: oid}}", nil, client.User{}},
		"email":             {"claimMappings: {username: {claim: email, prefix: ''}}", map[string]any{"email_verified": true, "jti": nil}, client.User{Name: "ann@x"}},
		"email, unsaid":     {"claimMappings: {username: {claim: email, prefix: ''}}", map[string]any{"jti": nil}, client.User{Name: "ann@x"}},
		"email, unverified": {"claimMappings: {username: {claim: email, prefix: ''}}", map[string]any{"email_verified": false}, client.User{}},
		"email, odd":        {"claimMappings: {username: {claim: email, prefix: ''}}", map[string]any{"email_verified": "true"}, client.User{}},
		"expressions": {`claimMappings:
  username: {expression: "'x:' + claims.sub"}
  groups: {expression: "claims.roles.split(',')"}
  uid: {expression: "string(claims.deep.x)"}
  extra:
  - {key: acme.com/roles, valueExpression: "claims.roles.split(',')"}
  - {key: acme.com/admin, valueExpression: "has(claims.admin) && claims.admin ? 'true' : ''"}
  - {key: acme.com/none, valueExpression: "has(claims.nothing) ? 'true' : ''"}
  - {key: acme.com/null, valueExpression: "null"}
`, map[string]any{"jti": nil}, client.User{Name: "x:ann", Groups: []string{"r1", "r2"}, UID: "3",
			Extra: map[string][]string{"acme.com/roles": {"r1", "r2"}, "acme.com/admin": {"true"}}}},
		"expression fails":      {`claimMappings: {username: {expression: "claims.nothing"}}`, nil, client.User{}},
		"expression is empty":   {`claimMappings: {username: {expression: "claims.?nothing.orValue('')"}}`, nil, client.User{}},
		"required claim":        {plain + "claimValidationRules: [{claim: roles, requiredValue: 'r1,r2'}]", nil, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"required, another":     {plain + "claimValidationRules: [{claim: roles, requiredValue: r1}]", nil, client.User{}},
		"required, absent":      {plain + "claimValidationRules: [{claim: hd, requiredValue: ''}]", nil, client.User{}},
		"rule":                  {plain + "claimValidationRules: [{expression: 'claims.exp - claims.iat <= 86400', message: too long}]", nil, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"rule does not hold":    {plain + "claimValidationRules: [{expression: 'claims.exp - claims.iat <= 60', message: too long}]", nil, client.User{}},
		"rule of no boolean":    {plain + "claimValidationRules: [{expression: 'claims.sub == true'}]", nil, client.User{}},
		"user rule":             {plain + "userValidationRules: [{expression: \"!user.username.startsWith('system:') && 'g:a' in user.groups\"}]", nil, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"user rule holds not":   {"claimMappings: {username: {claim: sub, prefix: 'system:'}}\nuserValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: reserved}]", nil, client.User{}},
		"user rule on extra":    {plain[:len(plain)-2] + ", extra: [{key: a.b/c, valueExpression: 'claims.sub'}]}\nuserValidationRules: [{expression: \"user.extra['a.b/c'] == ['ann']\"}]", map[string]any{"jti": nil, "groups": nil}, client.User{Name: "oidc:ann", Extra: map[string][]string{"a.b/c": {"ann"}}}},
		"several audiences":     {"issuer: {audiences: [x, me], audienceMatchPolicy: MatchAny}\n" + plain, nil, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"discovery elsewhere":   {"issuer: {discoveryURL: '" + p.srv.URL + "/elsewhere'}\n" + plain, nil, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"a list of audiences":   {plain, map[string]any{"aud": []string{"x", "me"}}, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"another audience":      {plain, map[string]any{"aud": "you"}, client.User{}},
		"no audience":           {plain, map[string]any{"aud": nil}, client.User{}},
		"expired":               {plain, map[string]any{"exp": time.Now().Unix() - 1}, client.User{}},
		"without end":           {plain, map[string]any{"exp": nil}, client.User{}},
		"end as text":           {plain, map[string]any{"exp": "2099"}, client.User{}},
		"not yet":               {plain, map[string]any{"nbf": time.Now().Add(leeway + time.Minute).Unix()}, client.User{}},
		"a clock that is ahead": {plain, map[string]any{"nbf": time.Now().Add(time.Minute).Unix()}, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
		"a far end":             {plain, map[string]any{"exp": 1e30}, client.User{Name: "oidc:ann", Groups: []string{"g:a", "g:b"}, Extra: id}},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, Config{Fixed: p.configuration(t, tc.config)})
			token := p.sign(t, with(p.claims(), tc.changes))
			for range 2 {
				res, ok, err := a.AuthenticateToken(t.Context(), token, nil)
				switch {
				case tc.want.Name == "":
					if ok || err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "r1,r2") {
						t.Errorf("got %+v %v %v", res, ok, err)
					}
				case err != nil || !ok || !reflect.DeepEqual(res.User, tc.want) || !reflect.DeepEqual(res.Audiences, []string{"api"}):
					t.Errorf("got %+v %v %v", res, ok, err)
				}
			}
			if tc.want.Name != "" {
				if res, ok, err := a.AuthenticateToken(t.Context(), token, []string{"vault"}); ok || err != nil {
					t.Errorf("for another audience than the API: %+v %v", res, err)
				}
			}
		})
	}
}

func TestForgeries(t *testing.T) {
	p, other := newProvider(t), newProvider(t)
	a := open(t, Config{Fixed: p.configuration(t, plain)})
	good := p.sign(t, p.claims())
	parts := strings.Split(good, ".")
	evil := other.sign(t, with(p.claims(), map[string]any{"sub": "admin"}))
	none := "eyJhbGciOiJub25lIn0." + strings.Split(evil, ".")[1] + "."
	public, err := json.Marshal(jose.JSONWebKey{Key: p.keys["k1"].Public()})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"another's key under the same id": evil,
		"payload changed":                 parts[0] + "." + strings.Split(evil, ".")[1] + "." + parts[2],
		"no algorithm":                    none,
		"public key as a secret":          signWith(t, public, "k1", p.claims()),
		"unknown key":                     signWith(t, other.keys["k1"], "k9", p.claims()),
	} {
		if res, ok, err := a.AuthenticateToken(t.Context(), token, nil); ok || err == nil {
			t.Errorf("%s: got %+v %v", name, res, err)
		}
	}
	for name, token := range map[string]string{"another issuer": other.sign(t, other.claims()), "no token": "abc", "two parts": "a.b", "not JSON": "a.b.c"} {
		if res, ok, err := a.AuthenticateToken(t.Context(), token, nil); ok || err != nil {
			t.Errorf("%s: got %+v %v", name, res, err)
		}
	}
	if _, ok, err := a.AuthenticateToken(t.Context(), good, nil); !ok {
		t.Error(err)
	}
}

// Keys are fetched once, again for an unknown one, and withdrawn ones end.
func TestKeysRotate(t *testing.T) {
	p := newProvider(t)
	var mu sync.Mutex
	now := time.Now()
	pass := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	a := open(t, Config{Fixed: p.configuration(t, plain), Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	long := with(p.claims(), map[string]any{"exp": now.Add(100 * time.Hour).Unix()})
	old := p.sign(t, long)
	try := func(token string) error {
		_, _, err := a.AuthenticateToken(t.Context(), token, nil)
		return err
	}
	for range 3 {
		pass(remembered + time.Second)
		if err := try(old); err != nil {
			t.Fatal(err)
		}
	}
	if p.asked != 1 {
		t.Errorf("asked %d times for keys that did not change", p.asked)
	}
	p.rotate(t, "k2")
	young := p.sign(t, long)
	if err := try(young); err != nil {
		t.Errorf("the new key is not found: %v", err)
	}
	for range 5 {
		if try(signWith(t, p.keys["k2"], "k7", long)) == nil {
			t.Error("an unknown key is good")
		}
	}
	if p.asked != 2 {
		t.Errorf("asked %d times: tokens of unknown keys make us ask all the time", p.asked)
	}
	pass(remembered)
	if try(old) == nil {
		t.Error("a withdrawn key is good")
	}
	// The issuer is away: its keys stay good for a day.
	p.mu.Lock()
	p.broken = true
	p.mu.Unlock()
	pass(keysFresh + time.Minute)
	if err := try(young); err != nil {
		t.Errorf("the issuer is away: %v", err)
	}
	pass(keysUsable)
	if try(young) == nil {
		t.Error("keys stay good for ever")
	}
	p.mu.Lock()
	p.broken, p.issuer = false, "https://evil"
	p.mu.Unlock()
	pass(failedAgain)
	if err := try(young); err == nil || !strings.Contains(err.Error(), "https://evil") {
		t.Errorf("the document of another issuer: %v", err)
	}
}

func TestBadConfigurations(t *testing.T) {
	const ok = "issuer: {url: 'https://a', audiences: [me]}\n"
	for text, why := range map[string]string{
		"issuer: {url: 'http://a', audiences: [me]}\n" + plain:                                     "scheme must be https",
		"issuer: {url: 'https://u:p@a', audiences: [me]}\n" + plain:                                "username or password",
		"issuer: {url: 'https://a?x', audiences: [me]}\n" + plain:                                  "query",
		"issuer: {url: 'https://a#x', audiences: [me]}\n" + plain:                                  "fragment",
		"issuer: {audiences: [me]}\n" + plain:                                                      "URL is required",
		"issuer: {url: 'https://own', audiences: [me]}\n" + plain:                                  "disallowed issuers",
		"issuer: {url: 'https://a'}\n" + plain:                                                     "at least one",
		"issuer: {url: 'https://a', audiences: [me, you]}\n" + plain:                               "MatchAny",
		"issuer: {url: 'https://a', audiences: [me, me], audienceMatchPolicy: MatchAny}\n" + plain: "Duplicate",
		"issuer: {url: 'https://a', discoveryURL: 'https://a/', audiences: [me]}\n" + plain:        "different from URL",
		"issuer: {url: 'https://a', audiences: [me], certificateAuthority: x}\n" + plain:           "certificate",
		"issuer: {url: 'https://a', audiences: [me], egressSelectorType: cluster}\n" + plain:       "egress",
		ok: "claimMappings.username",
		ok + "claimMappings: {username: {claim: sub}}":                                                                                 "prefix is required",
		ok + "claimMappings: {username: {claim: sub, prefix: '', expression: 'claims.sub'}}":                                           "both",
		ok + "claimMappings: {username: {expression: 'claims.sub', prefix: x}}":                                                        "prefix can't be set",
		ok + "claimMappings: {username: {expression: 'user.x'}}":                                                                       "undeclared",
		ok + "claimMappings: {username: {expression: 'claims.'}}":                                                                      "Syntax",
		ok + "claimMappings: {username: {expression: 'claims.email'}}":                                                                 "email_verified must be used",
		ok + plain[:len(plain)-2] + ", uid: {claim: a, expression: b}}":                                                                "both",
		ok + plain[:len(plain)-2] + ", extra: [{key: a, valueExpression: 'claims.a'}]}":                                                "domain-prefixed",
		ok + plain[:len(plain)-2] + ", extra: [{key: A.b/c, valueExpression: 'claims.a'}]}":                                            "lowercase",
		ok + plain[:len(plain)-2] + ", extra: [{key: x.kubernetes.io/c, valueExpression: 'claims.a'}]}":                                "reserved",
		ok + plain[:len(plain)-2] + ", extra: [{key: a.b/c, valueExpression: 'claims.a'}, {key: a.b/c, valueExpression: 'claims.a'}]}": "Duplicate",
		ok + plain[:len(plain)-2] + ", extra: [{key: a.b/c}]}":                                                                         "valueExpression is required",
		ok + plain + "claimValidationRules: [{}]":                                                                                      "claim or expression",
		ok + plain + "claimValidationRules: [{claim: a, expression: b}]":                                                               "both",
		ok + plain + "claimValidationRules: [{claim: a, message: b}]":                                                                  "message can't be set",
		ok + plain + "claimValidationRules: [{expression: 'claims.sub'}]":                                                              "must evaluate to bool",
		ok + plain + "claimValidationRules: [{expression: '1 + 1'}]":                                                                   "must evaluate to bool",
		ok + plain + "userValidationRules: [{expression: 'user.nothing == 1'}]":                                                        "undefined field",
		ok + plain + "userValidationRules: [{}]":                                                                                       "expression is required",
	} {
		var j configv1.JWTAuthenticator
		if err := yaml.UnmarshalStrict([]byte(text), &j); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		_, err := Open(Config{Fixed: &configv1.AuthenticationConfiguration{JWT: []configv1.JWTAuthenticator{j}}, Taken: []string{"https://own"}, Now: time.Now})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, want %q", text, err, why)
		}
	}
	// Looking at the verified flag anywhere will do.
	for _, text := range []string{
		"claimMappings: {username: {expression: \"claims.email_verified ? claims.email : ''\"}}",
		"claimMappings: {username: {expression: claims.email}}\nclaimValidationRules: [{expression: 'claims.?email_verified.orValue(true) == true'}]",
		"claimMappings: {username: {expression: claims.email}, extra: [{key: a.b/c, valueExpression: \"string(claims['email_verified'])\"}]}",
	} {
		var j configv1.JWTAuthenticator
		if err := yaml.UnmarshalStrict([]byte(ok+text), &j); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Fixed: &configv1.AuthenticationConfiguration{JWT: []configv1.JWTAuthenticator{j}}, Now: time.Now}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, why := range map[string]string{
		"{": "yaml", "kind: X": "want", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nfoo: 1": "foo",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestFlags(t *testing.T) {
	p := newProvider(t)
	for name, tc := range map[string]struct {
		flags Flags
		want  string
	}{
		"sub":      {Flags{}, p.srv.URL + "#ann"},
		"dash":     {Flags{UsernamePrefix: "-"}, "ann"},
		"prefix":   {Flags{UsernamePrefix: "x:"}, "x:ann"},
		"email":    {Flags{UsernameClaim: "email"}, "ann@x"},
		"required": {Flags{UsernamePrefix: "-", GroupsClaim: "groups", GroupsPrefix: "g:", RequiredClaims: map[string]string{"roles": "r1,r2"}}, "ann"},
	} {
		tc.flags.IssuerURL, tc.flags.ClientID, tc.flags.CAPEM = p.srv.URL, "me", p.ca()
		c, err := tc.flags.Configuration()
		if err != nil {
			t.Fatal(err)
		}
		res, _, err := open(t, Config{Fixed: c, Algorithms: []string{"ES256"}}).AuthenticateToken(t.Context(), p.sign(t, p.claims()), nil)
		if err != nil || res.User.Name != tc.want || (len(res.User.Groups) > 0) != (tc.flags.GroupsClaim != "") {
			t.Errorf("%s: got %+v, %v", name, res, err)
		}
		if _, _, err := open(t, Config{Fixed: c, Algorithms: []string{"RS256"}}).AuthenticateToken(t.Context(), p.sign(t, p.claims()), nil); err == nil {
			t.Errorf("%s: an algorithm that is not allowed", name)
		}
	}
	if _, err := (&Flags{IssuerURL: "https://a"}).Configuration(); err == nil {
		t.Error("no client")
	}
	if _, err := Open(Config{Algorithms: []string{"HS256"}}); err == nil {
		t.Error("a secret may sign")
	}
}

// The file is followed: issuers and anonymous access come and go with it, and
// what is broken changes nothing.
func TestReload(t *testing.T) {
	p := newProvider(t)
	path := filepath.Join(t.TempDir(), "c")
	put := func(c *configv1.AuthenticationConfiguration, broken string) {
		t.Helper()
		c.APIVersion, c.Kind = "apiserver.config.k8s.io/v1", "AuthenticationConfiguration"
		data, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".new", append(data, broken...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put(&configv1.AuthenticationConfiguration{}, "")
	a := open(t, Config{Path: path, Anonymous: authn.AnonymousAt("/livez")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	token := p.sign(t, p.claims())
	anonymous := func(path string) bool {
		u, ok, err := a.Anonymous().Authenticate(httptest.NewRequest("GET", "https://x"+path, nil))
		return err == nil && ok && u.Name == authn.Anonymous
	}
	if res, ok, err := a.AuthenticateToken(t.Context(), token, nil); ok || err != nil || !anonymous("/livez") || anonymous("/api") {
		t.Errorf("at first: %+v, %v", res, err)
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("never: " + what)
			}
		}
	}
	known := func() bool { _, ok, _ := a.AuthenticateToken(t.Context(), token, nil); return ok }
	c := p.configuration(t, plain)
	c.Anonymous = &configv1.AnonymousAuthConfig{Enabled: true, Conditions: []configv1.AnonymousAuthCondition{{Path: "/api"}}}
	put(c, "")
	until("the issuer is known", known)
	if anonymous("/livez") || !anonymous("/api") || anonymous("/api/v1") {
		t.Error("anonymous access is not as configured")
	}
	put(c, "nonsense: 1\n")
	c.Anonymous = &configv1.AnonymousAuthConfig{Enabled: true}
	put(c, "")
	until("anonymous everywhere", func() bool { return anonymous("/x") })
	if !known() {
		t.Error("the issuer is lost")
	}
	put(&configv1.AuthenticationConfiguration{Anonymous: &configv1.AnonymousAuthConfig{}}, "")
	until("the issuer is forgotten", func() bool { return !known() })
	if anonymous("/livez") {
		t.Error("anonymous access although it is disabled")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzToken(f *testing.F) {
	a, err := Open(Config{Fixed: &configv1.AuthenticationConfiguration{}, Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a.eyJpc3MiOiJ4In0.c")
	f.Fuzz(func(t *testing.T, token string) {
		if _, ok, _ := a.AuthenticateToken(t.Context(), token, nil); ok {
			t.Error("good without an issuer")
		}
	})
}

// FuzzConfig: a configuration is refused or taken, its expressions included.
func FuzzConfig(f *testing.F) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	f.Add(head + "jwt: [{issuer: {url: 'https://x', audiences: [a]}, claimMappings: {username: {expression: 'claims.sub'}, groups: {expression: 'claims.?groups.orValue([])'}, extra: [{key: 'a.b/c', valueExpression: '\"x\"'}]}, claimValidationRules: [{expression: 'claims.exp - claims.nbf <= 86400', message: m}], userValidationRules: [{expression: '!user.username.startsWith(\"system:\")'}]}]")
	f.Add(head + "jwt: [{issuer: {url: 'https://x', audiences: [a, b], audienceMatchPolicy: MatchAny, discoveryURL: 'https://y/z'}, claimMappings: {username: {claim: email, prefix: ''}}}]")
	f.Add(head + "anonymous: {enabled: true, conditions: [{path: /livez}]}")
	f.Add("jwt: 1")
	f.Fuzz(func(_ *testing.T, text string) {
		in, err := Parse([]byte(text))
		if err != nil {
			return
		}
		_ = check(in, nil)
		for i := range in.JWT {
			_, _ = newMapper(&in.JWT[i], field.NewPath("jwt").Index(i))
		}
	})
}
