package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/coxswain/cox/internal/atomicfile"
)

// Requested is a certificate that somebody else signs, kept in two files with
// its key, which never leaves this machine. Ensure gets it, Run renews it
// within the last third of its life. It is safe for concurrent use, but only
// one goroutine may Ensure or Run.
type Requested struct {
	cfg     RequestedConfig
	current atomic.Pointer[tls.Certificate]
}

// RequestedConfig describes a certificate to be requested.
type RequestedConfig struct {
	// Base is the path of both files without .crt and .key.
	Base string
	// CA is who must have signed it; nil for whomever the signer trusts.
	CA *x509.Certificate
	// Spec is asked before each request, since names and addresses change.
	Spec func() Spec
	// Sign has a request in PEM signed and returns the certificate in PEM. It
	// waits as long as ctx allows.
	Sign func(ctx context.Context, csr []byte) ([]byte, error)
	// Changed, where set, is called after each new certificate.
	Changed func()
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	Log *slog.Logger
}

// NewRequested returns the certificate; what fits in the files is used.
func NewRequested(c RequestedConfig) (*Requested, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := makeDir(filepath.Dir(c.Base)); err != nil {
		return nil, err
	}
	r := &Requested{cfg: c}
	if cert := r.load(); cert != nil {
		r.current.Store(cert)
	}
	return r, nil
}

// load returns what the files hold, nil when it cannot be used at all.
func (r *Requested) load() *tls.Certificate {
	certPEM, err := os.ReadFile(r.cfg.Base + ".crt")
	if err != nil {
		return nil
	}
	keyPEM, err := os.ReadFile(r.cfg.Base + ".key")
	if err != nil {
		return nil
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil
	}
	key, err := parseKey(keyPEM)
	if err != nil || !samePublicKey(cert.PublicKey, key.Public()) || !r.signed(cert) {
		return nil
	}
	spec := r.cfg.Spec()
	if now := r.cfg.Now(); cert.Subject.CommonName != spec.CommonName || now.After(cert.NotAfter) || now.Before(cert.NotBefore) {
		return nil
	}
	return pair(key, cert)
}

// signed says that who must have signed a certificate has.
func (r *Requested) signed(cert *x509.Certificate) bool {
	return r.cfg.CA == nil || cert.CheckSignatureFrom(r.cfg.CA) == nil
}

// Have tells whether there is a certificate that is valid now.
func (r *Requested) Have() bool {
	c := r.current.Load()
	return c != nil && r.cfg.Now().Before(c.Leaf.NotAfter)
}

// Certificate returns the present certificate for use in TLS.
func (r *Requested) Certificate() (*tls.Certificate, error) {
	if c := r.current.Load(); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no certificate %s.crt yet", r.cfg.Base)
}

// good says that the present certificate needs no replacement.
func (r *Requested) good() bool {
	c := r.current.Load()
	if c == nil || due(c.Leaf, r.cfg.Now()) {
		return false
	}
	spec := r.cfg.Spec()
	return spec.fits(c.Leaf)
}

// Ensure requests a certificate unless there is one that serves.
func (r *Requested) Ensure(ctx context.Context) error {
	if r.good() {
		return nil
	}
	return r.request(ctx)
}

// request makes a new key and has it certified. The files change only once
// the certificate is there: the key first, since a pair that does not match
// is not used.
func (r *Requested) request(ctx context.Context) error {
	spec := r.cfg.Spec()
	key, err := generateKey()
	if err != nil {
		return err
	}
	csr, err := NewCSR(key, spec)
	if err != nil {
		return err
	}
	certPEM, err := r.cfg.Sign(ctx, csr)
	if err != nil {
		return err
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return fmt.Errorf("the signed certificate: %w", err)
	}
	if !samePublicKey(cert.PublicKey, key.Public()) || !r.signed(cert) || cert.Subject.CommonName != spec.CommonName {
		return errors.New("the signed certificate is not the one that was asked for")
	}
	if err := r.save(key, cert); err != nil {
		return err
	}
	r.current.Store(pair(key, cert))
	if r.cfg.Changed != nil {
		r.cfg.Changed()
	}
	return nil
}

func (r *Requested) save(key *ecdsa.PrivateKey, cert *x509.Certificate) error {
	data, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(r.cfg.Base+".key", data, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(r.cfg.Base+".crt", encodeCert(cert.Raw), 0o644)
}

// Run renews the certificate in time until ctx ends, and retries with a delay
// that grows from a second to five minutes. again, which may be nil, has it
// look at once, since names have changed.
func (r *Requested) Run(ctx context.Context, again <-chan struct{}) error {
	const first, most = time.Second, 5 * time.Minute
	delay := first
	for {
		wait := r.untilDue()
		if !r.good() {
			tryCtx, cancel := context.WithTimeout(ctx, most)
			err := r.request(tryCtx)
			cancel()
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				r.cfg.Log.Warn("certificate not renewed, will retry", "certificate", r.cfg.Base+".crt", "error", err)
				wait, delay = delay, min(2*delay, most)
			default:
				r.cfg.Log.Info("certificate renewed", "certificate", r.cfg.Base+".crt", "expires", r.current.Load().Leaf.NotAfter)
				wait, delay = r.untilDue(), first
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-again:
		case <-t.C:
		}
		t.Stop()
	}
}

// untilDue is how long the present certificate needs no renewal. A timer does
// not run while the machine sleeps, so it is at most an hour.
func (r *Requested) untilDue() time.Duration {
	c := r.current.Load()
	if c == nil {
		return 0
	}
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return min(max(c.Leaf.NotAfter.Add(-life/3).Sub(r.cfg.Now()), time.Second), time.Hour)
}
