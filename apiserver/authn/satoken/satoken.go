// Package satoken makes and verifies service-account tokens: claims in, a
// signed JWT out, and back (KEP-1205). It knows nothing of live objects;
// authn checks a token against those.
package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Ref names the object that a token is bound to.
type Ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// Private is the claim "kubernetes.io".
type Private struct {
	Namespace      string `json:"namespace"`
	Node           *Ref   `json:"node,omitempty"`
	Pod            *Ref   `json:"pod,omitempty"`
	Secret         *Ref   `json:"secret,omitempty"`
	ServiceAccount Ref    `json:"serviceaccount"`
	WarnAfter      int64  `json:"warnafter,omitempty"`
}

// Claims is the payload of a token; times are Unix seconds, 0 is none.
type Claims struct {
	Audience   audience `json:"aud"`
	Expiry     int64    `json:"exp"`
	IssuedAt   int64    `json:"iat"`
	Issuer     string   `json:"iss"`
	ID         string   `json:"jti"`
	Kubernetes Private  `json:"kubernetes.io"`
	NotBefore  int64    `json:"nbf"`
	Subject    string   `json:"sub"`
}

// UnmarshalJSON takes times with fractions, too (RFC 7519, 2).
func (c *Claims) UnmarshalJSON(data []byte) error {
	type plain Claims
	in := struct {
		*plain
		Expiry    *jwt.NumericDate `json:"exp"`
		IssuedAt  jwt.NumericDate  `json:"iat"`
		NotBefore jwt.NumericDate  `json:"nbf"`
	}{plain: (*plain)(c)}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	c.Expiry, c.IssuedAt, c.NotBefore = 0, int64(in.IssuedAt), int64(in.NotBefore)
	if in.Expiry != nil {
		if c.Expiry = int64(*in.Expiry); c.Expiry == 0 { // which means none
			c.Expiry = -1
		}
	}
	return nil
}

// audience is written as an array and read as one or a single string
// (RFC 7519, 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// algorithms are those that may sign a token.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256}

// Issuer signs tokens and verifies its own. It is read only and safe for
// concurrent use.
type Issuer struct {
	url    string
	signer jose.Signer
	keys   []jose.JSONWebKey
	byID   map[string]jose.JSONWebKey
}

// NewIssuer makes an issuer with the URL that goes into "iss". It signs with
// key; more are public keys whose tokens are accepted as well (older ones).
func NewIssuer(url string, key crypto.Signer, more ...crypto.PublicKey) (*Issuer, error) {
	i := &Issuer{url: url, byID: map[string]jose.JSONWebKey{}}
	for _, pub := range append([]crypto.PublicKey{key.Public()}, more...) {
		jwk, err := publicKey(pub)
		if err != nil {
			return nil, err
		}
		if _, ok := i.byID[jwk.KeyID]; !ok {
			i.byID[jwk.KeyID] = jwk
			i.keys = append(i.keys, jwk)
		}
	}
	own := i.keys[0]
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(own.Algorithm),
		Key:       jose.JSONWebKey{Key: key, KeyID: own.KeyID, Algorithm: own.Algorithm},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("service-account signer: %w", err)
	}
	i.signer = signer
	return i, nil
}

func publicKey(pub crypto.PublicKey) (jose.JSONWebKey, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("service-account key: %w", err)
	}
	sum := sha256.Sum256(der)
	jwk := jose.JSONWebKey{Key: pub, Use: "sig", KeyID: base64.RawURLEncoding.EncodeToString(sum[:])}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			jwk.Algorithm = string(jose.ES256)
		case 384:
			jwk.Algorithm = string(jose.ES384)
		case 521:
			jwk.Algorithm = string(jose.ES512)
		}
	case *rsa.PublicKey:
		jwk.Algorithm = string(jose.RS256)
	}
	if jwk.Algorithm == "" {
		return jose.JSONWebKey{}, fmt.Errorf("service-account key: %T cannot be used", pub)
	}
	return jwk, nil
}

// URL is the issuer's name.
func (i *Issuer) URL() string { return i.url }

// Algorithms lists what the keys sign with, for the discovery document.
func (i *Issuer) Algorithms() []string {
	var out []string
	for _, k := range i.keys {
		if !slices.Contains(out, k.Algorithm) {
			out = append(out, k.Algorithm)
		}
	}
	slices.Sort(out)
	return out
}

// JWKS is the public key set (RFC 7517) in JSON.
func (i *Issuer) JWKS() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: i.keys})
}

// Sign returns the token of the claims; issuer and subject are filled in.
func (i *Issuer) Sign(c Claims) (string, error) {
	c.Issuer = i.url
	c.Subject = "system:serviceaccount:" + c.Kubernetes.Namespace + ":" + c.Kubernetes.ServiceAccount.Name
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	jws, err := i.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign service-account token: %w", err)
	}
	return jws.CompactSerialize()
}

// ErrForeign says that a token is not one of this issuer's, so that another
// authenticator may know it.
var ErrForeign = errors.New("not a service-account token of this cluster")

// Verify checks a token's signature and issuer and returns its claims. The
// caller checks times (Valid) and audience, so that the result can be kept.
// The errors never quote the token.
func (i *Issuer) Verify(token string) (*Claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, ErrForeign
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, ErrForeign
	}
	var peek struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &peek) != nil || peek.Issuer != i.url {
		return nil, ErrForeign
	}
	verified, err := i.verified(token)
	if err != nil {
		return nil, err
	}
	c := &Claims{}
	if err := json.Unmarshal(verified, c); err != nil {
		if errors.Is(err, jwt.ErrUnmarshalNumericDate) {
			return nil, err
		}
		return nil, errors.New("malformed claims in service-account token")
	}
	return c, nil
}

// verified returns the payload that one of the issuer's keys has signed.
func (i *Issuer) verified(token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil { // of an algorithm that none of the keys has, or no token at all
		return nil, jose.ErrCryptoFailure
	}
	keys := i.keys
	if id := jws.Signatures[0].Header.KeyID; id != "" {
		k, ok := i.byID[id]
		if !ok {
			return nil, errors.New("invalid signature, no keys found")
		}
		keys = []jose.JSONWebKey{k}
	}
	for _, k := range keys {
		if jws.Signatures[0].Header.Algorithm != k.Algorithm {
			continue
		}
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, nil
		}
	}
	return nil, jose.ErrCryptoFailure
}

// leeway is by how much the clocks of those who make tokens may be off.
const leeway = time.Minute

// Valid checks the token's times; one that has none is valid at any.
func (c *Claims) Valid(now time.Time) error {
	late, early := now.Add(-leeway).Unix(), now.Add(leeway).Unix()
	switch {
	case c.NotBefore != 0 && early < c.NotBefore:
		return errors.New("service account token is not valid yet")
	case c.Expiry != 0 && late > c.Expiry:
		return errors.New("service account token has expired")
	case early < c.IssuedAt:
		return errors.New("service account token is issued in the future")
	}
	return nil
}
