package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
)

// signer is an API server, and who signs what is requested of it once approved.
type signer struct {
	t    *testing.T
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	mu   sync.Mutex
	asks []*certificatesv1.CertificateSigningRequest
	// approve is closed when requests are to be signed.
	approve chan struct{}
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t: t, ca: ca, key: key, approve: make(chan struct{})}
}

func (s *signer) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	csr, ok := req.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || req.Verb != client.Create {
		return nil, fmt.Errorf("unexpected %s of %v", req.Verb, req.Resource)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	made := csr.DeepCopy()
	made.Name = fmt.Sprintf("csr-%d", len(s.asks))
	s.asks = append(s.asks, made)
	return &client.Result{Object: made}, nil
}

func (s *signer) Watch(ctx context.Context, _ *client.Request) (watch.Interface, error) {
	w := watch.NewRaceFreeFake()
	s.mu.Lock()
	asked := s.asks[len(s.asks)-1].DeepCopy()
	s.mu.Unlock()
	w.Add(asked)
	go func() {
		select {
		case <-s.approve:
		case <-ctx.Done():
			w.Stop()
			return
		}
		signed := asked.DeepCopy()
		signed.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved}}
		signed.Status.Certificate = s.sign(asked.Spec.Request)
		w.Modify(signed)
	}()
	return w, nil
}

func (s *signer) sign(request []byte) []byte {
	block, _ := pem.Decode(request)
	if block == nil {
		s.t.Error("the request is not in PEM")
		return nil
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		s.t.Errorf("the request: %v, %v", err, csr.CheckSignature())
		return nil
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: csr.Subject, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca, csr.PublicKey, s.key)
	if err != nil {
		s.t.Error(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestServerTLSBootstrap has the cluster sign the serving certificate of a
// kubelet that runs alone: there is none until it is approved, it is what a
// kubelet may ask for, and it outlives the process.
func TestServerTLSBootstrap(t *testing.T) {
	s, dir := newSigner(t), t.TempDir()
	log := slog.New(slog.DiscardHandler)
	ips := []string{"192.0.2.7", "2001:db8::7"}
	certificate, requested, err := servingCertificate(true, dir, "node-7", ips, s, log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certificate(); err == nil {
		t.Error("there is a certificate that nobody has signed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- requested.Run(ctx, nil) }()
	close(s.approve)
	var got *x509.Certificate
	for got == nil {
		if c, err := certificate(); err == nil {
			if got, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
				t.Fatal(err)
			}
			break
		}
		select {
		case err := <-done:
			t.Fatalf("gave up: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	spec := s.asks[0].Spec
	if spec.SignerName != "kubernetes.io/kubelet-serving" || !slices.Contains(spec.Usages, certificatesv1.UsageServerAuth) || slices.Contains(spec.Usages, certificatesv1.UsageClientAuth) {
		t.Errorf("asked %s for %v", spec.SignerName, spec.Usages)
	}
	if got.Subject.CommonName != "system:node:node-7" || !slices.Equal(got.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("it is %s's", got.Subject)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	for _, name := range append([]string{"node-7"}, ips...) {
		if net.ParseIP(name) != nil {
			name = "[" + name + "]"
		}
		if _, err := got.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("for %s: %v", name, err)
		}
	}
	// The next process finds it and asks for none.
	again, _, err := servingCertificate(true, dir, "node-7", ips, s, log)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := again(); err != nil || !slices.Equal(c.Certificate[0], got.Raw) {
		t.Errorf("after a restart: %v", err)
	}
	if len(s.asks) != 1 {
		t.Errorf("%d requests", len(s.asks))
	}
}

// Without it the kubelet makes a certificate of its own, and keeps it.
func TestOwnServingCertificate(t *testing.T) {
	dir := t.TempDir()
	var first []byte
	for range 2 {
		certificate, requested, err := servingCertificate(false, dir, "node-7", []string{"192.0.2.7"}, nil, nil)
		if err != nil || requested != nil {
			t.Fatalf("%v, %v", requested, err)
		}
		c, err := certificate()
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil || leaf.VerifyHostname("node-7") != nil || leaf.VerifyHostname("192.0.2.7") != nil {
			t.Errorf("%v, %v", leaf, err)
		}
		if first == nil {
			first = leaf.Raw
		} else if !slices.Equal(first, leaf.Raw) {
			t.Error("another certificate after a restart")
		}
	}
}

// A secret among the flags is not shown.
func TestShownFlags(t *testing.T) {
	fs := agentCommand().Flags()
	if err := fs.Parse([]string{"--token=hush", "--node-name=n"}); err != nil {
		t.Fatal(err)
	}
	got := shownFlags(fs)
	if got["token"] != "CLASSIFIED" || got["node-name"] != "n" || got["max-pods"] == "" {
		t.Errorf("%v", got)
	}
}
