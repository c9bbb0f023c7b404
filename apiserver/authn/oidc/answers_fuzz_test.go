package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// documents answers for an issuer: its keys at /keys, its discovery elsewhere.
type documents struct{ discovery, keys string }

func (d documents) RoundTrip(r *http.Request) (*http.Response, error) {
	text := d.discovery
	if r.URL.Path == "/keys" {
		text = d.keys
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// FuzzIssuer reads what an issuer publishes of itself and as its keys: whatever
// that is, it makes no token good that none of those keys has signed.
func FuzzIssuer(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{"iss": "https://i.example.com", "aud": "me", "exp": time.Now().Add(24 * time.Hour).Unix(), "sub": "ann"})
	if err != nil {
		f.Fatal(err)
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		f.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		f.Fatal(err)
	}
	const doc = `{"issuer":"https://i.example.com","jwks_uri":"https://i.example.com/keys","id_token_signing_alg_values_supported":["none"]}`
	const rsa = `{"kty":"RSA","kid":"k","use":"sig","alg":"RS256","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}`
	const ec = `{"kty":"EC","kid":"k","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`
	for _, keys := range []string{
		`{"keys":[` + rsa + `,` + ec + `]}`, `{"keys":[{"kty":"oct","kid":"k","k":"AAAA"},` + ec + `]}`, `{"keys":[{"kty":"RSA","kid":"k","n":"AQ","e":"AA"}]}`,
		`{"keys":[{"kty":"EC","kid":"k","crv":"P-256","x":"AA","y":"AA"}]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
		`{"keys":null}`, `[]`, `{"keys":[{"kty":"EC","kid":"k","use":"enc","x5c":["MA=="]}]}`,
	} {
		f.Add(doc, keys)
	}
	f.Add(`{"issuer":"https://i.example.com","jwks_uri":"http://i.example.com/keys"}`, "")
	f.Add(`{"issuer":"https://i.example.com/","jwks_uri":"https://[::1/keys"}`, "")
	f.Fuzz(func(t *testing.T, discovery, keys string) {
		j := configv1.JWTAuthenticator{Issuer: configv1.Issuer{URL: "https://i.example.com", Audiences: []string{"me"}}}
		j.ClaimMappings.Username.Claim, j.ClaimMappings.Username.Prefix = "sub", new(string)
		a, err := Open(Config{Fixed: &configv1.AuthenticationConfiguration{JWT: []configv1.JWTAuthenticator{j}}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		set := a.current.Load().issuers["https://i.example.com"].keys
		set.client = &http.Client{Transport: documents{discovery, keys}}
		if _, ok, _ := a.AuthenticateToken(t.Context(), token, nil); ok {
			t.Errorf("good by the keys %s", keys)
		}
		for _, k := range set.keys {
			if !k.IsPublic() || k.Use == "enc" {
				t.Errorf("taken from %s: %v", keys, k)
			}
		}
	})
}
