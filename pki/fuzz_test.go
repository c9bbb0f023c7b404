package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// FuzzJoinToken: a token that is taken is written as it was read.
func FuzzJoinToken(f *testing.F) {
	f.Add("abcdef.0123456789abcdef")
	f.Add("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.abcdef.0123456789abcdef")
	f.Add(" x.y.z\n")
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := ParseBootstrapToken(text); err == nil && b.String() != text {
			t.Errorf("%q is %q", text, b)
		}
		j, err := ParseJoinToken(text)
		if err != nil {
			return
		}
		if again, err := ParseJoinToken(j.String()); err != nil || again != j {
			t.Errorf("%q is %+v, and then %+v (%v)", text, j, again, err)
		}
	})
}

// FuzzSign: whatever is asked for, nothing that is signed is an authority, or
// outlives its time or its authority's.
func FuzzSign(f *testing.F) {
	b, err := Ensure(f.TempDir(), Config{})
	if err != nil {
		f.Fatal(err)
	}
	ca := b.CA
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, err := NewCSR(key, Spec{CommonName: "system:node:a", Organizations: []string{"system:nodes"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, "client auth", int64(3600))
	f.Add(append([]byte("x\n"), good...), "cert sign", int64(-1))
	f.Add(append(good, good...), "any", int64(1)<<40)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n"), "", int64(0))
	f.Fuzz(func(t *testing.T, request []byte, usage string, seconds int64) {
		now := time.Now()
		ttl := time.Duration(seconds) * time.Second
		text, err := SignCSR(ca, request, []certificatesv1.KeyUsage{certificatesv1.KeyUsage(usage)}, now, ttl)
		if err != nil {
			return
		}
		certs, err := ParseCertificates(text)
		if err != nil || len(certs) != 1 {
			t.Fatalf("%d certificates: %v", len(certs), err)
		}
		if c := certs[0]; c.IsCA || c.NotAfter.After(ca.Cert.NotAfter) || c.NotAfter.After(now.Add(max(ttl, 0)+time.Second)) {
			t.Errorf("%q: an authority: %v, until %v", request, c.IsCA, c.NotAfter)
		}
	})
}
