// Package pki makes and keeps what the cluster's identities rest on: a folder
// and the names and addresses of a server go in; certificate authorities,
// certificates that renew themselves, the service-account key, kubeconfigs
// and join tokens come out. All keys are ECDSA P-256.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/coxswain/cox/internal/atomicfile"
)

const (
	// CALife is how long an authority's certificate is valid.
	CALife = 10 * 365 * 24 * time.Hour
	// LeafLife is how long the certificates made here are valid; they are
	// renewed when a third of it is left.
	LeafLife = 365 * 24 * time.Hour
	// backdate lets machines whose clock is a little behind accept a new
	// certificate.
	backdate = 5 * time.Minute
)

// CA is a certificate authority with its key. It is read only and safe for
// concurrent use.
type CA struct {
	Cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// PEM is the authority's certificate; the caller must not change it.
func (c *CA) PEM() []byte { return c.pem }

// Pool returns a new pool that trusts this authority only.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.Cert)
	return p
}

// Hash is the SHA-256 of the authority's public key (SPKI) as
// "sha256:<hex>", the form that join tokens and kubeadm use.
func (c *CA) Hash() string { return SPKIHash(c.Cert) }

// SPKIHash is the SHA-256 of a certificate's public key as "sha256:<hex>".
func SPKIHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// LoadCA reads an authority's certificate and key.
func LoadCA(certPath, keyPath string) (*CA, error) {
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, fmt.Errorf("read key of certificate authority: %w", err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", certPath, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key of certificate authority %s: %w", keyPath, err)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of an authority", certPath)
	}
	if !samePublicKey(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s and %s do not belong together", certPath, keyPath)
	}
	return &CA{Cert: cert, key: key, pem: certPEM}, nil
}

// ensureCA loads the authority under base.crt and base.key or makes it when
// neither is there. A half or broken authority is an error, never replaced:
// every certificate of the cluster hangs on it.
func ensureCA(base, commonName string, now time.Time) (*CA, error) {
	certPath, keyPath := base+".crt", base+".key"
	_, certErr := os.Stat(certPath)
	_, keyErr := os.Stat(keyPath)
	haveCert, haveKey := !errors.Is(certErr, fs.ErrNotExist), !errors.Is(keyErr, fs.ErrNotExist)
	if haveCert {
		if !haveKey {
			return nil, fmt.Errorf("%s is there but its key %s is not: restore the key from a backup, or remove both to begin with a new authority", certPath, keyPath)
		}
		ca, err := LoadCA(certPath, keyPath)
		if err == nil && !now.Before(ca.Cert.NotAfter) {
			err = fmt.Errorf("the certificate authority %s expired on %s", certPath, ca.Cert.NotAfter.Format(time.RFC3339))
		}
		return ca, err
	}
	var key *ecdsa.PrivateKey
	if haveKey { // interrupted between the two writes
		data, err := os.ReadFile(keyPath)
		if err != nil {
			return nil, err
		}
		signer, err := parseKey(data)
		k, ok := signer.(*ecdsa.PrivateKey)
		if err != nil || !ok {
			return nil, fmt.Errorf("%s holds no ECDSA key and there is no certificate for it: remove it to begin with a new authority", keyPath)
		}
		key = k
	} else {
		var err error
		if key, err = newKey(keyPath, true); err != nil {
			return nil, err
		}
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-backdate).UTC(), NotAfter: now.Add(CALife).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true,
		DNSNames: []string{commonName},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority %s: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	certPEM := encodeCert(der)
	if err := atomicfile.Write(certPath, certPEM, 0o644); err != nil {
		return nil, err
	}
	return &CA{Cert: cert, key: key, pem: certPEM}, nil
}

// Spec says what a certificate is for.
type Spec struct {
	CommonName    string
	Organizations []string // become groups of a client
	DNSNames      []string
	IPs           []net.IP
	Usages        []x509.ExtKeyUsage
}

// Issue makes a certificate for pub, valid for ttl from now but not longer
// than the authority itself, and returns it in DER.
func (c *CA) Issue(s Spec, pub crypto.PublicKey, now time.Time, ttl time.Duration) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	end := now.Add(ttl)
	if end.After(c.Cert.NotAfter) {
		end = c.Cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: s.CommonName, Organization: s.Organizations},
		DNSNames:     s.DNSNames, IPAddresses: s.IPs,
		NotBefore: now.Add(-backdate).UTC(), NotAfter: end.UTC(),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: s.Usages, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.Cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate for %q: %w", s.CommonName, err)
	}
	return der, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// newKey makes a key and writes it to path, mode 0600.
func newKey(path string, sync bool) (*ecdsa.PrivateKey, error) {
	key, err := generateKey()
	if err != nil {
		return nil, err
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	write := atomicfile.WriteLight
	if sync {
		write = atomicfile.Write
	}
	return key, write(path, data, 0o600)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCert(data []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("holds no PEM certificate")
}

// parseKey reads a PEM key: EC, PKCS #1 or PKCS #8. Its errors never quote
// the data.
func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			return x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if s, ok := k.(crypto.Signer); ok {
				return s, err
			}
			return nil, errors.New("holds a key that cannot sign")
		}
	}
	return nil, errors.New("holds no PEM key")
}

func samePublicKey(a, b crypto.PublicKey) bool {
	eq, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && eq.Equal(b)
}

// pair joins DER certificates and a key for TLS.
func pair(key crypto.PrivateKey, leaf *x509.Certificate, chain ...[]byte) *tls.Certificate {
	return &tls.Certificate{Certificate: append([][]byte{leaf.Raw}, chain...), PrivateKey: key, Leaf: leaf}
}

func generateKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}
