// Package certificates approves, signs and clears away
// CertificateSigningRequests: requests in; approvals, certificates and
// deletions out.
package certificates

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/pki"
)

const (
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"
)

// has says whether a request has a condition (that is not false).
func has(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == t && c.Status != corev1.ConditionFalse
	})
}

func decided(r *certificatesv1.CertificateSigningRequest) bool {
	return has(r, certificatesv1.CertificateApproved) || has(r, certificatesv1.CertificateDenied)
}

// toSign says that a request waits for its certificate.
func toSign(r *certificatesv1.CertificateSigningRequest) bool {
	return has(r, certificatesv1.CertificateApproved) && !has(r, certificatesv1.CertificateDenied) &&
		!has(r, certificatesv1.CertificateFailed) && len(r.Status.Certificate) == 0
}

// rule is what one signer signs (the documentation of certificate signing
// requests, "Kubernetes signers").
type rule func(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error

// rules are the signers of this controller.
func rules() map[string]rule {
	return map[string]rule{
		certificatesv1.KubeAPIServerClientSignerName: func(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
			return checkUsages(usages, certificatesv1.UsageClientAuth)
		},
		certificatesv1.KubeAPIServerClientKubeletSignerName: func(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
			if err := checkNode(csr); err != nil {
				return err
			}
			if len(csr.DNSNames)+len(csr.IPAddresses) > 0 {
				return errors.New("DNS and IP subjectAltNames are not allowed")
			}
			return checkUsages(usages, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature)
		},
		certificatesv1.KubeletServingSignerName: func(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
			if err := checkNode(csr); err != nil {
				return err
			}
			if len(csr.DNSNames)+len(csr.IPAddresses) == 0 {
				return errors.New("DNS or IP subjectAltName is required")
			}
			return checkUsages(usages, certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature)
		},
		// For certificates that the cluster itself does not trust: no promise.
		"kubernetes.io/legacy-unknown": func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
	}
}

func checkNode(csr *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(csr.Subject.Organization, []string{nodeGroup}):
		return errors.New("subject organization is not system:nodes")
	case !strings.HasPrefix(csr.Subject.CommonName, nodeUser):
		return errors.New("subject common name does not begin with system:node:")
	case len(csr.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(csr.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return nil
}

// checkUsages wants all the given usages and nothing else, but for the two
// that every key may have.
func checkUsages(usages []certificatesv1.KeyUsage, want ...certificatesv1.KeyUsage) error {
	for _, w := range want {
		if !slices.Contains(usages, w) {
			return fmt.Errorf("usage %q is missing", w)
		}
	}
	for _, u := range usages {
		if u != certificatesv1.UsageKeyEncipherment && u != certificatesv1.UsageDigitalSignature && !slices.Contains(want, u) {
			return fmt.Errorf("usage %q is not allowed by this signer", u)
		}
	}
	return nil
}

// approval names the permission (a subresource of certificatesigningrequests)
// that lets a kubelet's request for a client certificate be approved without
// a human, and the message that says so; ok is false for other requests.
func approval(r *certificatesv1.CertificateSigningRequest) (subresource, message string, ok bool) {
	if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return "", "", false
	}
	csr, err := pki.ParseCSR(r.Spec.Request)
	if err != nil || rules()[r.Spec.SignerName](csr, r.Spec.Usages) != nil {
		return "", "", false
	}
	if csr.Subject.CommonName == r.Spec.Username {
		return "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.", true
	}
	return "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.", true
}

// requestedNode is the node that a request for a client certificate names.
func requestedNode(r *certificatesv1.CertificateSigningRequest) string {
	csr, err := pki.ParseCSR(r.Spec.Request)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(csr.Subject.CommonName, nodeUser)
}

// How long requests stay.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// expires is how long until a request is to be deleted.
func expires(r *certificatesv1.CertificateSigningRequest, now time.Time) time.Duration {
	at := r.CreationTimestamp.Add(keepPending)
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			if t := c.LastUpdateTime.Add(keepDecided); t.Before(at) {
				at = t
			}
		}
	}
	if certs, err := pki.ParseCertificates(r.Status.Certificate); err == nil && len(certs) > 0 && certs[0].NotAfter.Before(at) {
		at = certs[0].NotAfter
	}
	return at.Sub(now)
}

// lifetime is how long the certificate is to be valid.
func lifetime(r *certificatesv1.CertificateSigningRequest, longest time.Duration) time.Duration {
	if r.Spec.ExpirationSeconds == nil {
		return longest
	}
	return min(max(time.Duration(*r.Spec.ExpirationSeconds)*time.Second, 10*time.Minute), longest)
}
