package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestRequested(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	ca, err := ensureCA(filepath.Join(dir, "ca"), "test", now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ensureCA(filepath.Join(dir, "other"), "test", now)
	if err != nil {
		t.Fatal(err)
	}
	signer, signed, changed := ca, 0, 0
	spec := Spec{CommonName: "system:node:a", Organizations: []string{"system:nodes"}, IPs: []net.IP{net.IPv4(192, 0, 2, 1).To4()}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	make := func() *Requested {
		r, err := NewRequested(RequestedConfig{
			Base: filepath.Join(dir, "agent", "cert"), CA: ca.Cert, Now: func() time.Time { return now }, Spec: func() Spec { return spec }, Changed: func() { changed++ },
			Sign: func(_ context.Context, csr []byte) ([]byte, error) {
				if signer == nil {
					return nil, errors.New("away")
				}
				signed++
				return SignCSR(signer, csr, []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth}, now, 30*time.Hour)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ctx := context.Background()
	r := make()
	if _, err := r.Certificate(); err == nil || r.Have() {
		t.Error("a certificate before one was asked for")
	}
	signer = other
	if err := r.Ensure(ctx); err == nil || r.Have() {
		t.Errorf("another authority's certificate was taken: %v", err)
	}
	signer = ca
	if err := r.Ensure(ctx); err != nil || !r.Have() || changed != 1 {
		t.Fatalf("first certificate: %v, %d changes", err, changed)
	}
	if st, err := os.Stat(filepath.Join(dir, "agent", "cert.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", st, err)
	}
	before := signed
	if r = make(); !r.Have() || r.Ensure(ctx) != nil || signed != before {
		t.Error("the kept certificate was not used")
	}
	now = now.Add(21 * time.Hour) // into the last third
	signer = nil
	if err := r.Ensure(ctx); err == nil || !r.Have() {
		t.Errorf("without a signer the old certificate must stay: %v", err)
	}
	signer = ca
	if err := r.Ensure(ctx); err != nil || signed != before+1 {
		t.Errorf("renewal: %v", err)
	}
	spec.IPs = []net.IP{net.IPv4(192, 0, 2, 2).To4()}
	if err := r.Ensure(ctx); err != nil || signed != before+2 {
		t.Errorf("a new address needs a new certificate: %v", err)
	}
	now = now.Add(60 * time.Hour)
	if r.Have() || make().Have() {
		t.Error("an expired certificate counts")
	}
}
