package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

func request(path string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://x"+path, nil)
	r.TLS = &tls.ConnectionState{}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func with(r *http.Request, l *pki.Leaf) *http.Request {
	c, err := l.Certificate()
	if err != nil {
		panic(err)
	}
	r.TLS.PeerCertificates = []*x509.Certificate{c.Leaf}
	return r
}

// world is a cluster's authentication with its clock.
type world struct {
	counts *AccountCounts
	now    time.Time
	door   doortest.Door
	certs  *pki.Bundle
	issuer *satoken.Issuer
	sa     *corev1.ServiceAccount
	pod    *corev1.Pod
	auth   Authenticator
}

const issuerURL = "https://kubernetes.default.svc.cluster.local"

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{counts: NewAccountCounts(), now: time.Now()}
	clock := func() time.Time { return w.now }
	var err error
	if w.certs, err = pki.Ensure(t.TempDir(), pki.Config{Now: clock}); err != nil {
		t.Fatal(err)
	}
	if w.issuer, err = satoken.NewIssuer(issuerURL, w.certs.ServiceAccountKey); err != nil {
		t.Fatal(err)
	}
	w.sa = doortest.Put(&w.door, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bot"}})
	w.pod = doortest.Put(&w.door, client.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}})
	static, err := readStatic(strings.NewReader("static-token,ann,7,\"g1,g2\"\nplain,bob,8\n"), []string{issuerURL})
	if err != nil {
		t.Fatal(err)
	}
	auds := []string{issuerURL}
	w.auth = Union(AnonymousAt(HealthPaths()...),
		FrontProxy(w.certs.FrontProxyCA.Pool(), []string{pki.FrontProxyUser}, clock),
		ClientCert(w.certs.CA.Pool(), clock),
		Bearer(TokenUnion(static, NewServiceAccounts(w.issuer, auds, &w.door, clock).Counted(w.counts), NewBootstrap(&w.door, auds, clock))))
	return w
}

func (w *world) claims() satoken.Claims {
	return satoken.Claims{
		Audience: []string{issuerURL}, ID: "id-1", IssuedAt: w.now.Unix(), NotBefore: w.now.Unix(), Expiry: w.now.Add(time.Hour).Unix(),
		Kubernetes: satoken.Private{Namespace: "ns", ServiceAccount: satoken.Ref{Name: "bot", UID: string(w.sa.UID)},
			Pod: &satoken.Ref{Name: "p", UID: string(w.pod.UID)}, Node: &satoken.Ref{Name: "n1", UID: "nu"}},
	}
}

func sign(t *testing.T, i *satoken.Issuer, c satoken.Claims) string {
	t.Helper()
	tok, err := i.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func bearer(token string) *http.Request { return request("/api", "Authorization", "Bearer "+token) }

func TestWhoIsLetIn(t *testing.T) {
	w := newWorld(t)
	doortest.Put(&w.door, client.Secrets, bootstrapSecret("abcdef", nil))
	client1, _, err := w.certs.Node("n1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	token := sign(t, w.issuer, w.claims())
	ws := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte("static-token"))
	for name, tc := range map[string]struct {
		r      *http.Request
		user   string
		groups []string
	}{
		"certificate":                 {with(request("/api"), client1), "system:node:n1", []string{"system:nodes", "system:authenticated"}},
		"admin":                       {with(request("/api"), w.certs.Admin), "kubernetes-admin", []string{"system:masters", "system:authenticated"}},
		"static":                      {bearer("static-token"), "ann", []string{"g1", "g2", "system:authenticated"}},
		"lower case":                  {request("/api", "Authorization", "bearer plain"), "bob", []string{"system:authenticated"}},
		"service account":             {bearer(token), "system:serviceaccount:ns:bot", []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}},
		"bootstrap":                   {bearer("abcdef.0123456789abcdef"), "system:bootstrap:abcdef", []string{"system:bootstrappers", "system:bootstrappers:x:y", "system:authenticated"}},
		"health":                      {request("/livez"), "system:anonymous", []string{"system:unauthenticated"}},
		"version":                     {request("/version"), "system:anonymous", []string{"system:unauthenticated"}},
		"websocket":                   {request("/api", "Upgrade", "websocket", "Sec-WebSocket-Protocol", ws+", v5.channel.k8s.io"), "ann", []string{"g1", "g2", "system:authenticated"}},
		"bad token, good certificate": {with(bearer("nonsense"), client1), "system:node:n1", []string{"system:nodes", "system:authenticated"}},
		"front proxy": {with(request("/api", "X-Remote-User", "eve", "X-Remote-Group", "a", "X-Remote-Group", "b", "X-Remote-Uid", "9", "X-Remote-Extra-Acme.com%2Fx", "v"), w.certs.FrontProxyClient),
			"eve", []string{"a", "b", "system:authenticated"}},
		"no front proxy": {with(request("/api", "X-Remote-User", "eve"), client1), "system:node:n1", []string{"system:nodes", "system:authenticated"}},
	} {
		for range 2 { // the second time from what is remembered
			r := tc.r.Clone(context.Background())
			u, ok, err := w.auth.Authenticate(r)
			if err != nil || !ok || u.Name != tc.user || !slices.Equal(u.Groups, tc.groups) {
				t.Errorf("%s: got %+v %v %v", name, u, ok, err)
			}
			for h := range r.Header {
				if h == "Authorization" && name != "bad token, good certificate" || strings.HasPrefix(h, "X-Remote") && name == "front proxy" {
					t.Errorf("%s: the credential %s is passed on", name, h)
				}
			}
			if name == "websocket" && r.Header.Get("Sec-WebSocket-Protocol") != "v5.channel.k8s.io" {
				t.Errorf("sub-protocols %q", r.Header.Get("Sec-WebSocket-Protocol"))
			}
			if name == "front proxy" && (u.UID != "9" || !reflect.DeepEqual(u.Extra, map[string][]string{"acme.com/x": {"v"}})) {
				t.Errorf("front proxy: %+v", u)
			}
		}
	}
	u, _, _ := w.auth.Authenticate(bearer(token))
	want := map[string][]string{ExtraCredentialID: {"JTI=id-1"}, ExtraPodName: {"p"}, ExtraPodUID: {string(w.pod.UID)}, ExtraNodeName: {"n1"}, ExtraNodeUID: {"nu"}}
	if u.UID != string(w.sa.UID) || !reflect.DeepEqual(u.Extra, want) {
		t.Errorf("service account: %+v", u)
	}
	u, _, _ = w.auth.Authenticate(with(request("/api"), client1))
	if id := u.Extra[ExtraCredentialID]; len(id) != 1 || !strings.HasPrefix(id[0], "X509SHA256=") || len(id[0]) != 11+64 {
		t.Errorf("certificate: %+v", u.Extra)
	}
}

func bootstrapSecret(id string, change func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{
		"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"), "auth-extra-groups": []byte("system:bootstrappers:x:y"),
	}}
	if change != nil {
		change(s)
	}
	return s
}

func TestWhoIsKeptOut(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	secret := func(id string, change func(*corev1.Secret)) *http.Request {
		doortest.Put(&w.door, client.Secrets, bootstrapSecret(id, change))
		return bearer(id + ".0123456789abcdef")
	}
	doortest.Put(&w.door, client.Secrets, bootstrapSecret("abcdef", nil))
	signed := func(change func(*satoken.Claims)) *http.Request {
		c := w.claims()
		change(&c)
		return bearer(sign(t, w.issuer, c))
	}
	good := sign(t, w.issuer, w.claims())
	parts := strings.Split(good, ".")
	flip := func(s string) string { // another letter in the middle
		b := []byte(s)
		if i := len(b) / 2; b[i] == 'A' {
			b[i] = 'B'
		} else {
			b[i] = 'A'
		}
		return string(b)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	hmac := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`))
	foreign, err := satoken.NewIssuer("https://elsewhere", w.certs.ServiceAccountKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		r *http.Request
		// why is part of the error; "" is a request without a credential.
		why string
	}{
		"no credential":                  {request("/api"), ""},
		"below a health path":            {request("/livez/etcd"), ""},
		"beside a health path":           {request("/livezx"), ""},
		"unknown token":                  {bearer("nonsense"), "invalid bearer token"},
		"bad token to a health path":     {request("/livez", "Authorization", "Bearer nonsense"), "invalid bearer token"},
		"empty token":                    {request("/api", "Authorization", "Bearer "), ""},
		"basic":                          {request("/api", "Authorization", "Basic YTpi"), ""},
		"certificate of another cluster": {with(request("/api"), other.certs.Admin), "unknown authority"},
		"a server's certificate":         {with(request("/api"), w.certs.APIServer), "incompatible key usage"},
		"front proxy's as a client":      {with(request("/api"), w.certs.FrontProxyClient), "unknown authority"},
		"foreign front proxy":            {with(request("/api", "X-Remote-User", "eve"), other.certs.FrontProxyClient), "unknown authority"},
		"expired":                        {signed(func(c *satoken.Claims) { c.Expiry = w.now.Unix() - 61 }), "service account token has expired"},
		"not yet":                        {signed(func(c *satoken.Claims) { c.NotBefore = w.now.Unix() + 62 }), "service account token is not valid yet"},
		"of the future":                  {signed(func(c *satoken.Claims) { c.IssuedAt = w.now.Unix() + 62 }), "service account token is issued in the future"},
		"for another audience":           {signed(func(c *satoken.Claims) { c.Audience = []string{"vault"} }), "audiences"},
		"account gone":                   {signed(func(c *satoken.Claims) { c.Kubernetes.ServiceAccount.Name = "gone" }), `serviceaccounts "gone" not found`},
		"account made anew":              {signed(func(c *satoken.Claims) { c.Kubernetes.ServiceAccount.UID = "old" }), "does not match claim (old)"},
		"pod gone":                       {signed(func(c *satoken.Claims) { c.Kubernetes.Pod.Name = "gone" }), "invalidated"},
		"pod made anew":                  {signed(func(c *satoken.Claims) { c.Kubernetes.Pod.UID = "old" }), "does not match service account pod ref claim (old)"},
		"node gone":                      {signed(func(c *satoken.Claims) { c.Kubernetes.Pod = nil }), "invalidated"},
		"secret gone":                    {signed(func(c *satoken.Claims) { c.Kubernetes.Secret = &satoken.Ref{Name: "gone", UID: "u"} }), "invalidated"},
		"no account":                     {signed(func(c *satoken.Claims) { c.Kubernetes.ServiceAccount.Name = "" }), "resource name may not be empty"},
		"payload changed":                {bearer(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(decode(parts[1]), `"name":"bot"`, `"name":"joe"`, 1))) + "." + parts[2]), "cryptographic primitive"},
		"signature changed":              {bearer(parts[0] + "." + parts[1] + "." + flip(parts[2])), "cryptographic primitive"},
		"no signature":                   {bearer(none + "." + parts[1] + "."), "go-jose/go-jose: error in cryptographic primitive"},
		"another algorithm":              {bearer(hmac + "." + parts[1] + "." + parts[2]), "go-jose/go-jose: error in cryptographic primitive"},
		"another cluster's":              {bearer(sign(t, other.issuer, w.claims())), "invalid signature, no keys found"},
		"another issuer":                 {bearer(sign(t, foreign, w.claims())), "invalid bearer token"},
		"bootstrap, wrong secret":        {bearer("abcdef.0123456789abcdeX"), "invalid bearer token"},
		"bootstrap, other secret":        {bearer("abcdef.aaaaaaaaaaaaaaaa"), "invalid bearer token"},
		"bootstrap, unknown":             {bearer("zzzzzz.0123456789abcdef"), "invalid bearer token"},
		"bootstrap, path":                {bearer("../../.0123456789abcdef"), "invalid bearer token"},
		"bootstrap, expired":             {secret("aaaaa1", func(s *corev1.Secret) { s.Data["expiration"] = []byte(w.now.Add(-time.Second).Format(time.RFC3339)) }), "invalid bearer token"},
		"bootstrap, bad expiration":      {secret("aaaaa2", func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }), "invalid bearer token"},
		"bootstrap, other type":          {secret("aaaaa3", func(s *corev1.Secret) { s.Type = "Opaque" }), "invalid bearer token"},
		"bootstrap, not for this":        {secret("aaaaa4", func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }), "invalid bearer token"},
		"bootstrap, another's id":        {secret("aaaaa5", func(s *corev1.Secret) { s.Data["token-id"] = []byte("bbbbbb") }), "invalid bearer token"},
		"bootstrap, group of the mighty": {secret("aaaaa6", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }), "may not have"},
		"websocket with nothing else":    {request("/api", "Upgrade", "websocket", "Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.cGxhaW4"), "missing additional subprotocol"},
		"token in another protocol":      {request("/api", "Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.cGxhaW4, x"), ""},
	} {
		token := strings.TrimPrefix(tc.r.Header.Get("Authorization"), "Bearer ")
		u, ok, err := w.auth.Authenticate(tc.r)
		switch {
		case ok:
			t.Errorf("%s: let in as %+v", name, u)
		case (err == nil) != (tc.why == "") || err != nil && !strings.Contains(err.Error(), tc.why):
			t.Errorf("%s: got %v, want %q", name, err, tc.why)
		case err != nil && len(token) > 10 && strings.Contains(err.Error(), token):
			t.Errorf("%s: the error quotes the token", name)
		}
	}
}

func decode(s string) string {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// What is remembered of a credential ends with it.
func TestRememberedCredentialsEnd(t *testing.T) {
	w := newWorld(t)
	long := w.claims()
	long.Expiry = w.now.Add(100 * time.Hour).Unix()
	token := bearer(sign(t, w.issuer, long)).Header.Get("Authorization")
	try := func() error {
		_, _, err := w.auth.Authenticate(request("/api", "Authorization", token))
		return err
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	dying := w.pod.DeepCopy()
	dying.DeletionTimestamp = &metav1.Time{Time: w.now}
	doortest.Put(&w.door, client.Pods, dying)
	if err := try(); err != nil {
		t.Errorf("a pod that is ending lost its token at once: %v", err)
	}
	w.now = w.now.Add(2 * time.Minute)
	if err := try(); err == nil {
		t.Error("the token outlives its pod's end")
	}
	doortest.Put(&w.door, client.Pods, w.pod)
	if err := try(); err != nil {
		t.Error(err)
	}
	w.now = w.now.Add(200 * time.Hour)
	if err := try(); err == nil {
		t.Error("an expired token was remembered as good")
	}
	admin := with(request("/api"), w.certs.Admin)
	if _, ok, err := w.auth.Authenticate(admin.Clone(context.Background())); !ok || err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(pki.LeafLife)
	if _, ok, err := w.auth.Authenticate(admin); ok || err == nil {
		t.Error("an expired certificate was remembered as good")
	}
}

func TestStaticFile(t *testing.T) {
	for _, bad := range []string{"a,b", ",user,1", "a,\"b,1\n", "x"} {
		if _, err := readStatic(strings.NewReader(bad), nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := LoadStatic("/does/not/exist", nil); err == nil {
		t.Error("a missing file was taken")
	}
	s, err := readStatic(strings.NewReader("tok,u,1\n"), []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if res, ok, _ := s.AuthenticateToken(context.Background(), "tok", []string{"b", "c"}); !ok || !slices.Equal(res.Audiences, []string{"b"}) {
		t.Errorf("got %+v", res)
	}
	if _, ok, _ := s.AuthenticateToken(context.Background(), "tok", []string{"c"}); ok {
		t.Error("a token passed for an audience that it is not for")
	}
}

func TestUnionDoesNotChangeSharedGroups(t *testing.T) {
	groups := make([]string, 1, 10)
	groups[0] = "g"
	shared := client.User{Name: "u", Groups: groups}
	a := Union(nil, Func(func(*http.Request) (client.User, bool, error) { return shared, true, nil }))
	one, _, _ := a.Authenticate(request("/"))
	two, _, _ := a.Authenticate(request("/"))
	if &one.Groups[0] == &two.Groups[0] || len(shared.Groups) != 1 {
		t.Error("two requests share the groups that were added to")
	}
	fails := Union(AnonymousAt("/"), Func(func(*http.Request) (client.User, bool, error) { return client.User{}, false, errors.New("bad") }))
	if _, ok, err := fails.Authenticate(request("/")); ok || err == nil {
		t.Error("a bad credential became anonymous")
	}
}

// A token in a secret is good as long as the secret holds it and its account
// is the one it was made for.
func TestLegacyTokens(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	legacy := satoken.Legacy{Namespace: "ns", Secret: "s", Account: "bot", UID: string(w.sa.UID)}
	mint := func(w *world, l satoken.Legacy) string {
		t.Helper()
		tok, err := w.issuer.SignLegacy(l)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	token := mint(w, legacy)
	put := func(change func(*corev1.Secret)) {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", Labels: map[string]string{labelLastUsed: w.now.UTC().Format(time.DateOnly)}},
			Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)}}
		if change != nil {
			change(s)
		}
		doortest.Put(&w.door, client.Secrets, s)
	}
	try := func(token string) (client.User, error) {
		u, _, err := w.auth.Authenticate(bearer(token))
		return u, err
	}
	if _, err := try(token); err == nil || err.Error() != "Token has been invalidated" {
		t.Errorf("without its secret: %v", err)
	}
	put(nil)
	u, err := try(token)
	if err != nil || u.Name != "system:serviceaccount:ns:bot" || u.UID != string(w.sa.UID) || !slices.Contains(u.Groups, "system:serviceaccounts:ns") || u.Extra != nil {
		t.Errorf("got %+v, %v", u, err)
	}
	holding := func(token string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data["token"] = []byte(token) }
	}
	another := mint(w, satoken.Legacy{Namespace: "ns", Secret: "s", Account: "bot", UID: "old"})
	joe := mint(w, satoken.Legacy{Namespace: "ns", Secret: "s", Account: "joe", UID: "u"})
	for name, tc := range map[string]struct {
		change func(*corev1.Secret)
		token  string
		why    string
	}{
		"another token":   {func(s *corev1.Secret) { s.Data["token"] = []byte("x") }, token, "Token does not match server's copy"},
		"of another type": {func(s *corev1.Secret) { s.Type = "Opaque" }, token, "Token does not match server's copy"},
		"ending":          {func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: w.now} }, token, "Token has been invalidated"},
		"withdrawn":       {func(s *corev1.Secret) { s.Labels[labelInvalid] = "2026-01-01" }, token, "the token in secret ns/s for service account ns/bot has been marked invalid."},
		"another account": {holding(another), another, "does not match claim (old)"},
		"no account":      {holding(joe), joe, `serviceaccounts "joe" not found`},
		"lacks the uid":   {nil, mint(w, satoken.Legacy{Namespace: "ns", Secret: "s", Account: "bot"}), "serviceAccountUID claim is missing"},
		"another cluster": {nil, mint(other, legacy), "invalid signature, no keys found"},
	} {
		put(tc.change)
		if u, err := try(tc.token); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: got %+v, %v", name, u, err)
		}
	}
}

// Only of those who are let in by a certificate is its remaining time told.
func TestLifetimes(t *testing.T) {
	w := newWorld(t)
	var told []float64
	a := Lifetimes(ClientCert(w.certs.CA.Pool(), func() time.Time { return w.now }), func() time.Time { return w.now }, func(s float64) { told = append(told, s) })
	for _, r := range []*http.Request{request("/api"), with(request("/api"), w.certs.FrontProxyClient), with(request("/api"), w.certs.Admin)} {
		_, _, _ = a.Authenticate(r)
	}
	admin, err := w.certs.Admin.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if want := admin.Leaf.NotAfter.Sub(w.now).Seconds(); len(told) != 1 || told[0] != want {
		t.Errorf("told %v, want %v once", told, want)
	}
}
