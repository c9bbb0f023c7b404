package tokens

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

const url = "https://kubernetes.default.svc.cluster.local"

type fixture struct {
	door    doortest.Door
	issuer  *satoken.Issuer
	actions map[string]apiserver.ActionFunc
	now     time.Time
	pod     *corev1.Pod
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{now: time.Unix(1_000_000, 0)}
	if f.issuer, err = satoken.NewIssuer(url, key); err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return f.now }
	auth := authn.TokenUnion(authn.NewServiceAccounts(f.issuer, []string{url}, &f.door, clock))
	f.actions = Actions(Config{Issuer: f.issuer, Audiences: []string{url}, Door: &f.door, Tokens: auth, Now: clock})
	doortest.Put(&f.door, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bot"}})
	doortest.Put(&f.door, client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}})
	f.pod = doortest.Put(&f.door, client.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "bot", NodeName: "n1"}})
	doortest.Put(&f.door, client.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.PodSpec{ServiceAccountName: "other"}})
	return f
}

func (f *fixture) ask(spec authenticationv1.TokenRequestSpec, name string) (*authenticationv1.TokenRequest, error) {
	res, err := f.actions["serviceaccounts/token"](context.Background(), &client.Request{Namespace: "ns", Name: name, Object: &authenticationv1.TokenRequest{Spec: spec}})
	if err != nil {
		return nil, err
	}
	return res.Object.(*authenticationv1.TokenRequest), nil
}

func (f *fixture) review(t *testing.T, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	res, err := f.actions["tokenreviews.authentication.k8s.io"](context.Background(), &client.Request{Object: &authenticationv1.TokenReview{
		Spec:   authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
		Status: authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "planted"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Object.(*authenticationv1.TokenReview).Status
}

func bound(kind, name, uid string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
}

func TestRequest(t *testing.T) {
	f := newFixture(t)
	for name, tc := range map[string]struct {
		spec      authenticationv1.TokenRequestSpec
		expires   time.Duration // as the answer says
		lives     time.Duration // as the token says
		audiences []string
		warns     bool
	}{
		"plain":       {authenticationv1.TokenRequestSpec{}, time.Hour, time.Hour, []string{url}, false},
		"other":       {authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}, ExpirationSeconds: new(int64(600))}, 600 * time.Second, 600 * time.Second, []string{"vault"}, false},
		"pod":         {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", string(f.pod.UID)), ExpirationSeconds: new(int64(3607))}, 3607 * time.Second, extendedLifetime, []string{url}, true},
		"pod, vault":  {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", ""), Audiences: []string{"vault"}, ExpirationSeconds: new(int64(3607))}, 3607 * time.Second, 3607 * time.Second, []string{"vault"}, false},
		"pod, longer": {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", ""), ExpirationSeconds: new(int64(7200))}, 2 * time.Hour, 2 * time.Hour, []string{url}, false},
		"node":        {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Node", "n1", "node-uid")}, time.Hour, time.Hour, []string{url}, false},
	} {
		out, err := f.ask(tc.spec, "bot")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c, err := f.issuer.Verify(out.Status.Token)
		if err != nil {
			t.Fatal(err)
		}
		if !out.Status.ExpirationTimestamp.Time.Equal(f.now.Add(tc.expires)) || c.Expiry != f.now.Add(tc.lives).Unix() ||
			!reflect.DeepEqual([]string(c.Audience), tc.audiences) || (c.Kubernetes.WarnAfter > 0) != tc.warns || c.ID == "" {
			t.Errorf("%s: expires %v, claims %+v", name, out.Status.ExpirationTimestamp, c)
		}
		if ref := tc.spec.BoundObjectRef; ref != nil {
			if c.Kubernetes.Node == nil || c.Kubernetes.Node.UID != "node-uid" || (ref.Kind == "Pod") != (c.Kubernetes.Pod != nil) {
				t.Errorf("%s: bound to %+v", name, c.Kubernetes)
			}
		}
		st := f.review(t, out.Status.Token, tc.audiences...)
		if !st.Authenticated || st.User.Username != "system:serviceaccount:ns:bot" || !reflect.DeepEqual(st.Audiences, tc.audiences) {
			t.Errorf("%s: reviewed as %+v", name, st)
		}
	}
}

func TestRequestRefused(t *testing.T) {
	f := newFixture(t)
	for name, tc := range map[string]struct {
		spec    authenticationv1.TokenRequestSpec
		account string
		is      func(error) bool
		text    string
	}{
		"short":           {authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(599))}, "bot", apierrors.IsInvalid, "may not specify a duration less than 10 minutes"},
		"long":            {authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(1<<32 + 1))}, "bot", apierrors.IsInvalid, "may not specify a duration larger than 2^32 seconds"},
		"no account":      {authenticationv1.TokenRequestSpec{}, "nobody", apierrors.IsNotFound, `serviceaccounts "nobody" not found`},
		"no pod":          {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "x", "")}, "bot", apierrors.IsNotFound, `pods "x" not found`},
		"another's pod":   {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "q", "")}, "bot", apierrors.IsBadRequest, `cannot bind token for serviceaccount "bot" to pod running with different serviceaccount name.`},
		"pod made anew":   {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", "old")}, "bot", apierrors.IsConflict, "the UID in the bound object reference (old) does not match"},
		"another kind":    {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("ConfigMap", "p", "")}, "bot", apierrors.IsBadRequest, "cannot bind token to object of type"},
		"path for a name": {authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Secret", "../p", "")}, "bot", apierrors.IsNotFound, "not found"},
	} {
		if _, err := f.ask(tc.spec, tc.account); err == nil || !tc.is(err) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What a client says of an error stays in the review of a token that is good,
// and nothing else of the status that it sends.
func TestReviewKeepsError(t *testing.T) {
	f := newFixture(t)
	out, err := f.ask(authenticationv1.TokenRequestSpec{}, "bot")
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{out.Status.Token: "planted", out.Status.Token + "x": authn.ErrInvalidToken.Error()} {
		res, err := f.actions["tokenreviews.authentication.k8s.io"](context.Background(), &client.Request{Object: &authenticationv1.TokenReview{
			Spec:   authenticationv1.TokenReviewSpec{Token: token},
			Status: authenticationv1.TokenReviewStatus{Error: "planted", Authenticated: true, User: authenticationv1.UserInfo{Username: "planted"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		st := res.Object.(*authenticationv1.TokenReview).Status
		if !strings.Contains(st.Error, want) || st.User.Username == "planted" || st.Authenticated != (want == "planted") {
			t.Errorf("want %q, got %+v", want, st)
		}
	}
}

func TestReviewRefuses(t *testing.T) {
	f := newFixture(t)
	out, err := f.ask(authenticationv1.TokenRequestSpec{}, "bot")
	if err != nil {
		t.Fatal(err)
	}
	tok := out.Status.Token
	if st := f.review(t, tok, "vault"); st.Authenticated || st.User.Username != "" || strings.Contains(st.Error, tok) {
		t.Errorf("for another audience: %+v", st)
	}
	if st := f.review(t, tok+"x"); st.Authenticated || st.Error == "" || strings.Contains(st.Error, tok) {
		t.Errorf("tampered: %+v", st)
	}
	if st := f.review(t, "nonsense"); st.Authenticated {
		t.Errorf("nonsense: %+v", st)
	}
	f.now = f.now.Add(2 * time.Hour)
	if st := f.review(t, tok); st.Authenticated || !strings.Contains(st.Error, "expired") {
		t.Errorf("expired: %+v", st)
	}
	for _, in := range []*authenticationv1.TokenReview{{}, {ObjectMeta: metav1.ObjectMeta{Namespace: "x"}, Spec: authenticationv1.TokenReviewSpec{Token: "t"}}} {
		if _, err := f.actions["tokenreviews.authentication.k8s.io"](context.Background(), &client.Request{Object: in}); !apierrors.IsBadRequest(err) {
			t.Errorf("got %v", err)
		}
	}
}

func TestSelfSubjectReview(t *testing.T) {
	f := newFixture(t)
	u := client.User{Name: "u", UID: "1", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}
	res, err := f.actions["selfsubjectreviews.authentication.k8s.io"](context.Background(), &client.Request{User: u, Object: &authenticationv1.SelfSubjectReview{}})
	if err != nil {
		t.Fatal(err)
	}
	got := res.Object.(*authenticationv1.SelfSubjectReview).Status.UserInfo
	if got.Username != "u" || got.UID != "1" || got.Groups[0] != "g" || got.Extra["k"][0] != "v" {
		t.Errorf("got %+v", got)
	}
}

// What a stranger learns from the discovery documents is enough to verify a
// token.
func TestDiscovery(t *testing.T) {
	f := newFixture(t)
	out, err := f.ask(authenticationv1.TokenRequestSpec{}, "bot")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Handlers(f.issuer, "")
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, into any) string {
		rec := httptest.NewRecorder()
		h[path].ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
		return rec.Header().Get("Content-Type")
	}
	var conf struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if ct := get("/.well-known/openid-configuration", &conf); ct != "application/json" || conf.Issuer != url || conf.JWKS != url+"/openid/v1/jwks" {
		t.Errorf("got %s %+v", ct, conf)
	}
	var keys jose.JSONWebKeySet
	if ct := get("/openid/v1/jwks", &keys); ct != "application/jwk-set+json" || len(keys.Keys) != 1 || !keys.Keys[0].IsPublic() {
		t.Fatalf("got %s %+v", ct, keys)
	}
	jws, err := jose.ParseSignedCompact(out.Status.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jws.Verify(keys.Key(jws.Signatures[0].Header.KeyID)[0]); err != nil {
		t.Error(err)
	}
}
