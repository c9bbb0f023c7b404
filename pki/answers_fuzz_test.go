package pki

import (
	"context"
	"crypto/x509"
	"os"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// FuzzSigned takes what a server hands out as the certificate that was asked
// for, and shows as its own chain: a certificate of other keys, names or
// authorities is not taken, nor an authority that the token does not name.
func FuzzSigned(f *testing.F) {
	b, err := Ensure(f.TempDir(), Config{})
	if err != nil {
		f.Fatal(err)
	}
	other, err := Ensure(f.TempDir(), Config{})
	if err != nil {
		f.Fatal(err)
	}
	spec := Spec{CommonName: "system:node:a", Organizations: []string{"system:nodes"}}
	key, err := generateKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := NewCSR(key, spec)
	if err != nil {
		f.Fatal(err)
	}
	foreign, err := SignCSR(b.CA, csr, []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, time.Now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range [][]byte{foreign, append(foreign, encodeCert(b.CA.Cert.Raw)...), encodeCert(other.CA.Cert.Raw), []byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"), nil} {
		f.Add(text)
	}
	hash := SPKIHash(b.CA.Cert)
	f.Fuzz(func(t *testing.T, answer []byte) {
		dir := t.TempDir()
		r, err := NewRequested(RequestedConfig{
			Base: dir + "/kubelet", CA: b.CA.Cert, Spec: func() Spec { return spec },
			Sign: func(context.Context, []byte) ([]byte, error) { return answer, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		// Its key was made a moment ago: nothing that was known before fits it.
		if err := r.Ensure(t.Context()); err == nil || r.Have() {
			t.Errorf("%q was taken", answer)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%v is left, %v", entries, err)
		}
		chain, err := ParseCertificates(answer)
		if err != nil {
			return
		}
		for _, c := range [][]*x509.Certificate{chain, append(chain, other.CA.Cert)} {
			if found, err := verifyPinned(c, "a", hash); err == nil {
				t.Errorf("the authority %q was found in %q", found, answer)
			}
		}
	})
}
