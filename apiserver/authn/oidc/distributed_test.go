package oidc

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coxswain/cox/client"
)

// endpoint answers one thing to who shows the secret.
type endpoint struct {
	*httptest.Server
	answer string
	asked  int
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{}
	e.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked++
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(e.answer))
	}))
	t.Cleanup(e.Close)
	return e
}

// TestDistributedClaims: a token that has its groups elsewhere gets them there,
// from whom its issuer names, and nobody else's.
func TestDistributedClaims(t *testing.T) {
	p, other, away := newProvider(t), newProvider(t), newEndpoint(t) // all with httptest's certificate
	names := map[string]any{"groups": "src1"}
	at := func(s map[string]any) map[string]any {
		return map[string]any{"groups": nil, "jti": nil, "_claim_names": names, "_claim_sources": map[string]any{"src1": s}}
	}
	there := at(map[string]any{"endpoint": away.URL, "access_token": "s3cret"})
	groups := func(changes map[string]any) map[string]any {
		return with(with(p.claims(), map[string]any{"groups": []string{"far", "away"}, "sub": nil}), changes)
	}
	good := p.sign(t, groups(nil))
	for name, tc := range map[string]struct {
		config  string
		changes map[string]any
		answer  string
		want    []string // nil: refused
		none    bool     // accepted without groups
		asked   int
	}{
		"there":                    {plain, there, good, []string{"g:far", "g:away"}, false, 1},
		"with a line break":        {plain, there, good + "\n", []string{"g:far", "g:away"}, false, 1},
		"one group":                {plain, there, p.sign(t, groups(map[string]any{"groups": "far"})), []string{"g:far"}, false, 1},
		"another issuer":           {plain, there, other.sign(t, groups(map[string]any{"iss": other.srv.URL})), []string{"g:far", "g:away"}, false, 1},
		"the token has them":       {plain, with(there, map[string]any{"groups": []string{"near"}}), good, []string{"g:near"}, false, 0},
		"another claim is there":   {plain, with(there, map[string]any{"_claim_names": map[string]any{"address": "src1"}}), good, nil, true, 0},
		"in the token (as it is)":  {plain, at(map[string]any{"JWT": good}), good, nil, true, 0},
		"no claim of groups":       {"claimMappings: {username: {claim: sub, prefix: 'oidc:'}}", there, good, nil, true, 0},
		"groups by an expression":  {"claimMappings: {username: {claim: sub, prefix: 'oidc:'}, groups: {expression: \"claims.?groups.orValue([])\"}}", there, good, nil, true, 0},
		"no sources":               {plain, with(there, map[string]any{"_claim_sources": nil}), good, nil, false, 0},
		"another source":           {plain, with(there, map[string]any{"_claim_names": map[string]any{"groups": "src2"}}), good, nil, false, 0},
		"names of another form":    {plain, with(there, map[string]any{"_claim_names": []string{"groups"}}), good, nil, false, 0},
		"not https":                {plain, at(map[string]any{"endpoint": "http" + strings.TrimPrefix(away.URL, "https"), "access_token": "s3cret"}), good, nil, false, 0},
		"no URL":                   {plain, at(map[string]any{"endpoint": "::", "access_token": "s3cret"}), good, nil, false, 0},
		"without the access token": {plain, at(map[string]any{"endpoint": away.URL}), good, nil, false, 1},
		"no token there":           {plain, there, `{"groups":["admin"]}`, nil, false, 1},
		"too long":                 {plain, there, strings.Repeat("x", maxDocument+1), nil, false, 1},
		"signed by another":        {plain, there, other.sign(t, groups(nil)), nil, false, 1},
		"an issuer without keys":   {plain, there, p.sign(t, groups(map[string]any{"iss": away.URL})), nil, false, 2},
		"an issuer without https":  {plain, there, p.sign(t, groups(map[string]any{"iss": "http://x"})), nil, false, 1},
		"for another audience":     {plain, there, p.sign(t, groups(map[string]any{"aud": "you"})), nil, false, 1},
		"expired":                  {plain, there, p.sign(t, groups(map[string]any{"exp": time.Now().Unix() - 1})), nil, false, 1},
		"without the claim":        {plain, there, p.sign(t, groups(map[string]any{"groups": nil})), nil, false, 1},
		"groups of numbers":        {plain, there, p.sign(t, groups(map[string]any{"groups": []int{1}})), nil, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, Config{Fixed: p.configuration(t, tc.config)})
			away.answer, away.asked = tc.answer, 0
			res, ok, err := a.AuthenticateToken(t.Context(), p.sign(t, with(p.claims(), tc.changes)), nil)
			switch {
			case tc.want == nil && !tc.none:
				if ok || err == nil || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("got %+v %v %v", res, ok, err)
				}
			case err != nil || !ok || !reflect.DeepEqual(res.User, client.User{Name: "oidc:ann", Groups: tc.want}):
				t.Errorf("got %+v %v %v", res, ok, err)
			}
			if away.asked != tc.asked {
				t.Errorf("asked %d times, want %d", away.asked, tc.asked)
			}
		})
	}
}

// TestDistributedClaimsExpire: groups count no longer than the token they came
// in, and are asked for once while they do.
func TestDistributedClaimsExpire(t *testing.T) {
	p, away := newProvider(t), newEndpoint(t)
	now := time.Now()
	a := open(t, Config{Fixed: p.configuration(t, plain), Now: func() time.Time { return now }})
	away.answer = p.sign(t, with(p.claims(), map[string]any{"exp": now.Add(3 * time.Second).Unix()}))
	token := p.sign(t, with(p.claims(), map[string]any{
		"groups": nil, "_claim_names": map[string]any{"groups": "s"},
		"_claim_sources": map[string]any{"s": map[string]any{"endpoint": away.URL, "access_token": "s3cret"}},
	}))
	for range 3 {
		if _, ok, err := a.AuthenticateToken(t.Context(), token, nil); !ok || err != nil || away.asked != 1 {
			t.Fatal(ok, err, away.asked)
		}
	}
	now = now.Add(4 * time.Second)
	if _, ok, err := a.AuthenticateToken(t.Context(), token, nil); ok || err == nil || away.asked != 2 {
		t.Fatal(ok, err, away.asked)
	}
}
