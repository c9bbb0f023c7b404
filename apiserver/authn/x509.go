package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/memo"
)

// uidOID is the subject attribute that carries a user's UID (KEP-5210).
var uidOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

// ClientCert authenticates by a client certificate of the given authorities:
// its common name is the user, its organizations are the groups. now is the
// clock.
func ClientCert(roots *x509.CertPool, now func() time.Time) Authenticator {
	seen := memo.New[[sha256.Size]byte, certVerdict](1024)
	return Func(func(r *http.Request) (client.User, bool, error) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return client.User{}, false, nil
		}
		leaf := r.TLS.PeerCertificates[0]
		sum := sha256.Sum256(leaf.Raw)
		if v, ok := seen.Get(sum); ok && now().Before(v.until) {
			return v.user, true, nil
		}
		until, err := verifyChain(r.TLS.PeerCertificates, roots, now())
		if err != nil {
			return client.User{}, false, err
		}
		user, err := certUser(leaf, sum)
		if err != nil {
			return client.User{}, false, err
		}
		seen.Put(sum, certVerdict{user, until})
		return user, true, nil
	})
}

// Lifetimes tells how long the certificates of those who are let in by a are
// valid still, in seconds, with each request.
func Lifetimes(a Authenticator, now func() time.Time, observe func(seconds float64)) Authenticator {
	return Func(func(r *http.Request) (client.User, bool, error) {
		u, ok, err := a.Authenticate(r)
		if ok {
			observe(r.TLS.PeerCertificates[0].NotAfter.Sub(now()).Seconds())
		}
		return u, ok, err
	})
}

// certVerdict is kept by the hash of a certificate whose chain was good, so
// that not every request of a connection verifies it again.
type certVerdict struct {
	user  client.User
	until time.Time
}

// verifyChain checks that the certificate may be a client's and returns until
// when the chain is valid.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (time.Time, error) {
	opts := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(opts)
	if err != nil {
		return time.Time{}, fmt.Errorf("verifying certificate %s failed: %w", certName(chain[0]), err)
	}
	until := chains[0][0].NotAfter
	for _, c := range chains[0] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return until, nil
}

func certName(c *x509.Certificate) string {
	return fmt.Sprintf("SN=%d, SKID=%X, AKID=%X", c.SerialNumber, c.SubjectKeyId, c.AuthorityKeyId)
}

func certUser(c *x509.Certificate, sum [sha256.Size]byte) (client.User, error) {
	if c.Subject.CommonName == "" {
		return client.User{}, errors.New("client certificate names no user (its common name is empty)")
	}
	u := client.User{
		Name: c.Subject.CommonName, Groups: c.Subject.Organization,
		Extra: map[string][]string{ExtraCredentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}
	for _, attr := range c.Subject.Names {
		if !attr.Type.Equal(uidOID) {
			continue
		}
		uid, ok := attr.Value.(string)
		if !ok || uid == "" || u.UID != "" {
			return client.User{}, errors.New("client certificate must carry one UID, a string, or none")
		}
		u.UID = uid
	}
	return u, nil
}

// FrontProxy authenticates a proxy by a client certificate of the front-proxy
// authorities with one of the allowed common names (none: any), and takes
// the user from its X-Remote-User, -Uid, -Group and -Extra- headers. They are
// removed from the request.
func FrontProxy(roots *x509.CertPool, allowed []string, now func() time.Time) Authenticator {
	return Func(func(r *http.Request) (client.User, bool, error) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.Header.Get("X-Remote-User") == "" {
			return client.User{}, false, nil
		}
		if _, err := verifyChain(r.TLS.PeerCertificates, roots, now()); err != nil {
			return client.User{}, false, nil // an ordinary client: its headers mean nothing
		}
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; len(allowed) > 0 && !slices.Contains(allowed, name) {
			return client.User{}, false, fmt.Errorf("x509: subject with cn=%s is not in the allowed list", name)
		}
		u := client.User{Name: r.Header.Get("X-Remote-User"), UID: r.Header.Get("X-Remote-Uid"), Groups: r.Header.Values("X-Remote-Group")}
		for h, values := range r.Header {
			key, ok := cutPrefixFold(h, "X-Remote-Extra-")
			if !ok {
				continue
			}
			key = strings.ToLower(key)
			if plain, err := url.PathUnescape(key); err == nil {
				key = plain
			}
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			u.Extra[key] = append(u.Extra[key], values...)
		}
		StripRemote(r.Header)
		return u, true, nil
	})
}

// StripRemote removes the headers by which a front proxy names users.
func StripRemote(h http.Header) {
	for name := range h {
		if _, ok := cutPrefixFold(name, "X-Remote-Extra-"); ok {
			delete(h, name)
		}
	}
	h.Del("X-Remote-User")
	h.Del("X-Remote-Uid")
	h.Del("X-Remote-Group")
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}
