package pki

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
)

// BootstrapToken is what a new node shows until it has a certificate: an id,
// which is public (it names the secret bootstrap-token-ID), and a secret.
type BootstrapToken struct{ ID, Secret string }

var bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// NewBootstrapToken makes a random token.
func NewBootstrapToken() (BootstrapToken, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, 22)
	buf := make([]byte, 64)
	for len(out) < 22 {
		if _, err := rand.Read(buf); err != nil {
			return BootstrapToken{}, fmt.Errorf("make token: %w", err)
		}
		for _, c := range buf {
			if c < 252 && len(out) < 22 { // 252 is the last multiple of 36: no letter is likelier
				out = append(out, letters[c%36])
			}
		}
	}
	return BootstrapToken{string(out[:6]), string(out[6:])}, nil
}

// ParseBootstrapToken reads "id.secret". The error does not quote the text.
func ParseBootstrapToken(s string) (BootstrapToken, error) {
	m := bootstrapToken.FindStringSubmatch(s)
	if m == nil {
		return BootstrapToken{}, errors.New("not a bootstrap token: want six and sixteen of a-z and 0-9 with a dot between them")
	}
	return BootstrapToken{m[1], m[2]}, nil
}

// String is "id.secret": a secret.
func (t BootstrapToken) String() string { return t.ID + "." + t.Secret }

// JoinToken is all that a machine needs to join besides the server's
// address: the hash of the cluster's authority and a bootstrap token, written
// as HEX.ID.SECRET.
type JoinToken struct {
	CAHash string // "sha256:<hex>"
	BootstrapToken
}

// String is a secret.
func (t JoinToken) String() string {
	return strings.TrimPrefix(t.CAHash, "sha256:") + "." + t.BootstrapToken.String()
}

var hexHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseJoinToken reads what String made. The error does not quote the text.
func ParseJoinToken(s string) (JoinToken, error) {
	hash, rest, _ := strings.Cut(strings.TrimSpace(s), ".")
	boot, err := ParseBootstrapToken(rest)
	if err != nil || !hexHash.MatchString(hash) {
		return JoinToken{}, errors.New("not a join token: copy the whole line that `cox token create` printed")
	}
	return JoinToken{"sha256:" + hash, boot}, nil
}

// DiscoverCA connects to an API server (host:port) and returns the
// certificate of its authority in PEM, if the authority's public key has the
// given hash and the server's certificate is the authority's for this
// address. Nothing is sent to the server before that is certain.
func DiscoverCA(ctx context.Context, address, hash string) ([]byte, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address of the server: %w", err)
	}
	var found []byte
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host,
		InsecureSkipVerify: true, // replaced by the pinned verification below
		VerifyConnection: func(cs tls.ConnectionState) error {
			found, err = verifyPinned(cs.PeerCertificates, host, hash)
			return err
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its certificate authority: %w", address, err)
	}
	return found, conn.Close()
}

func verifyPinned(chain []*x509.Certificate, host, hash string) ([]byte, error) {
	if len(chain) == 0 {
		return nil, errors.New("the server shows no certificate")
	}
	for _, ca := range chain[1:] {
		if subtle.ConstantTimeCompare([]byte(SPKIHash(ca)), []byte(hash)) != 1 || !ca.IsCA {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			return nil, err
		}
		return encodeCert(ca.Raw), nil
	}
	return nil, errors.New("the server does not belong to the cluster of this token (its certificate authority is another one)")
}
