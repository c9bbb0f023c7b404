package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coxswain/cox/internal/atomicfile"
)

// Leaf is a certificate that is kept in two files and renews itself: whoever
// asks for it within the last third of its life gets a new one. The files are
// made when someone first asks. It is safe for concurrent use.
type Leaf struct {
	ca   *CA
	spec Spec
	base string // path without .crt and .key
	now  func() time.Time
	log  *slog.Logger
	// withCA sends the authority along with the certificate, so that a joining
	// node can pin it by hash.
	withCA bool

	current atomic.Pointer[tls.Certificate]
	mu      sync.Mutex // held to renew
}

// newLeaf describes a certificate, which the first use loads or makes.
func newLeaf(ca *CA, base string, spec Spec, now func() time.Time, log *slog.Logger) *Leaf {
	return &Leaf{ca: ca, spec: spec, base: base, now: now, log: log}
}

// Files returns the paths of the certificate and of the key (mode 0600),
// which it makes when they are not there.
func (l *Leaf) Files() (cert, key string, err error) {
	_, err = l.Certificate()
	return l.certPath(), l.keyPath(), err
}

func (l *Leaf) certPath() string { return l.base + ".crt" }
func (l *Leaf) keyPath() string  { return l.base + ".key" }

// load returns what the files hold, nil when it cannot be used: broken, of
// another authority, for other names or uses, or near its end.
func (l *Leaf) load() *tls.Certificate {
	certPEM, err := os.ReadFile(l.certPath())
	if err != nil {
		return nil
	}
	keyPEM, err := os.ReadFile(l.keyPath())
	if err != nil {
		return nil
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil
	}
	key, err := parseKey(keyPEM)
	if err != nil || !samePublicKey(cert.PublicKey, key.Public()) {
		return nil
	}
	if cert.CheckSignatureFrom(l.ca.Cert) != nil || !l.spec.fits(cert) || due(cert, l.now()) {
		return nil
	}
	return l.pair(key, cert)
}

func (l *Leaf) pair(key crypto.PrivateKey, cert *x509.Certificate) *tls.Certificate {
	if l.withCA {
		return pair(key, cert, l.ca.Cert.Raw)
	}
	return pair(key, cert)
}

// due says that a third or less of the certificate's life is left, or that it
// is not yet valid.
func due(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return now.Before(cert.NotBefore) || cert.NotAfter.Sub(now) <= life/3
}

func (s *Spec) fits(c *x509.Certificate) bool {
	ips := func(in []net.IP) []string {
		out := make([]string, len(in))
		for i, ip := range in {
			out[i] = ip.String()
		}
		return out
	}
	return c.Subject.CommonName == s.CommonName &&
		sameSet(c.Subject.Organization, s.Organizations) &&
		sameSet(c.DNSNames, s.DNSNames) &&
		sameSet(ips(c.IPAddresses), ips(s.IPs)) &&
		slices.Equal(c.ExtKeyUsage, s.Usages)
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func (l *Leaf) renew() error {
	key, err := newKey(l.keyPath(), false)
	if err != nil {
		return err
	}
	return l.issue(key)
}

func (l *Leaf) issue(key *ecdsa.PrivateKey) error {
	der, err := l.ca.Issue(l.spec, key.Public(), l.now(), LeafLife)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteLight(l.certPath(), encodeCert(der), 0o644); err != nil {
		return err
	}
	l.current.Store(l.pair(key, cert))
	return nil
}

// Certificate returns the certificate for use in TLS, made or renewed first
// when need be. Should renewal fail (a full disk), the old one is used as
// long as it is valid.
func (l *Leaf) Certificate() (*tls.Certificate, error) {
	if cur := l.current.Load(); cur != nil && !due(cur.Leaf, l.now()) {
		return cur, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cur := l.current.Load()
	if cur == nil {
		if cur = l.load(); cur == nil {
			if err := l.renew(); err != nil {
				return nil, fmt.Errorf("make certificate %s: %w", l.certPath(), err)
			}
			return l.current.Load(), nil
		}
		l.current.Store(cur)
	}
	if !due(cur.Leaf, l.now()) {
		return cur, nil
	}
	if err := l.renew(); err != nil {
		if l.now().Before(cur.Leaf.NotAfter) {
			l.log.Error("certificate not renewed, using the old one", "certificate", l.certPath(), "expires", cur.Leaf.NotAfter, "error", err)
			return cur, nil
		}
		return nil, fmt.Errorf("renew certificate %s: %w", l.certPath(), err)
	}
	l.log.Info("certificate renewed", "certificate", l.certPath(), "expires", l.current.Load().Leaf.NotAfter)
	return l.current.Load(), nil
}

// PEM returns the certificate and its key.
func (l *Leaf) PEM() (cert, key []byte, err error) {
	c, err := l.Certificate()
	if err != nil {
		return nil, nil, err
	}
	ec, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		if key, err = os.ReadFile(l.keyPath()); err != nil {
			return nil, nil, err
		}
	} else if key, err = encodeKey(ec); err != nil {
		return nil, nil, err
	}
	var chain bytes.Buffer
	for _, der := range c.Certificate {
		chain.Write(encodeCert(der))
	}
	return chain.Bytes(), key, nil
}

// ServerTLS returns a configuration for a listener: this certificate, TLS 1.2
// at least, HTTP/2 and 1.1; it asks for a client certificate without
// demanding one and leaves judging it to authentication.
func (l *Leaf) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.Certificate() },
	}
}

// ClientTLS returns a configuration for a client that shows this certificate
// to servers of the given authority (which may be another one than its own).
func (l *Leaf) ClientTLS(server *CA) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              server.Pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return l.Certificate() },
	}
}

func safeName(name string) error {
	if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, ".") {
		return fmt.Errorf("%q cannot name a node", name)
	}
	return nil
}
