package satoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"
)

// FuzzVerify: of all tokens only those that were signed are good.
func FuzzVerify(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	i, err := NewIssuer("https://kubernetes.default.svc", key)
	if err != nil {
		f.Fatal(err)
	}
	c := Claims{}
	c.Expiry = time.Now().Add(time.Hour).Unix()
	good, err := i.Sign(c)
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(good, ".")
	f.Add(good)
	f.Add(parts[0] + "." + parts[1] + ".")
	f.Add("eyJhbGciOiJub25lIn0." + parts[1] + ".")
	f.Add(parts[0] + "." + parts[1] + "." + parts[2] + "." + parts[2])
	f.Add(`{"payload":"e30","signatures":[{"protected":"e30","signature":""}]}`)
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := i.Verify(token); err == nil && !strings.HasPrefix(token, parts[0]+"."+parts[1]+".") {
			t.Errorf("%q is good", token)
		}
		if _, err := i.VerifyLegacy(token); err == nil && token != good {
			t.Errorf("%q is a good legacy token", token)
		}
	})
}
