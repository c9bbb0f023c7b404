package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

const (
	minExpirationSeconds = 600
	// A signer's name is a domain, at most two parts before it, and a slash.
	maxSignerName = 253 + 1 + 63 + 1 + 253
	legacySigner  = "kubernetes.io/legacy-unknown"
)

// usages lists every key usage, sorted.
func usages() []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{
		certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
		certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign,
		certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature,
		certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem,
		certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement,
		certificatesv1.UsageKeyEncipherment, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
		certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth,
		certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
	}
}

// validateRequest checks a new request.
func validateRequest(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	s, path := &csr.Spec, field.NewPath("spec")
	if err := parseRequest(s.Request); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), s.Request, fmt.Sprintf("%v", err)))
	}
	if len(s.Usages) == 0 {
		errs = append(errs, field.Required(path.Child("usages"), ""))
	}
	seen := sets.New[certificatesv1.KeyUsage]()
	for i, u := range s.Usages {
		at := path.Child("usages").Index(i)
		errs = append(errs, check.OneOf(u, at, usages()...)...)
		if seen.Has(u) {
			errs = append(errs, field.Duplicate(at, u))
		}
		seen.Insert(u)
	}
	if s.SignerName == legacySigner {
		errs = append(errs, field.Invalid(path.Child("signerName"), s.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, validateSignerName(s.SignerName, path.Child("signerName"))...)
	}
	if n := s.ExpirationSeconds; n != nil && *n < minExpirationSeconds {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *n, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(errs, validateConditions(csr, field.NewPath("status", "conditions"))...)
}

func parseRequest(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	_, err := x509.ParseCertificateRequest(block.Bytes)
	return err
}

// validateSignerName checks a name of the form example.com/path.
func validateSignerName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	segments := strings.Split(name, "/")
	if len(segments) != 2 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	domain, rest := segments[0], segments[1]
	var errs field.ErrorList
	for label := range strings.SplitSeq(domain, ".") {
		errs = append(errs, check.Each(path, label, prefixed("validating label %q: ", label, validation.IsDNS1123Label(label)))...)
	}
	if len(strings.Split(domain, ".")) < 2 {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, check.Each(path, rest, prefixed("validating label %q: ", rest, validation.IsDNS1123Subdomain(rest)))...)
	if max := maxSignerName; len(name) > max {
		errs = append(errs, field.TooLong(path, "" /*unused*/, max))
	}
	return errs
}

func prefixed(format, label string, messages []string) []string {
	out := make([]string, len(messages))
	for i, m := range messages {
		out[i] = fmt.Sprintf(format, label) + m
	}
	return out
}

// validateConditions checks the conditions of any version of the object.
func validateConditions(csr *certificatesv1.CertificateSigningRequest, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var approved, denied bool
	seen := sets.New[certificatesv1.RequestConditionType]()
	for i, c := range csr.Status.Conditions {
		at := path.Index(i)
		if c.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		decided := c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
		switch {
		case c.Status == "":
			errs = append(errs, field.Required(at.Child("status"), ""))
		case decided && c.Status != corev1.ConditionTrue:
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
		default:
			errs = append(errs, check.OneOf(c.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
		approved = approved || c.Type == certificatesv1.CertificateApproved
		denied = denied || c.Type == certificatesv1.CertificateDenied
		if approved && denied && (c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied) && !seen.Has(c.Type) {
			errs = append(errs, field.Invalid(path, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen.Has(c.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen.Insert(c.Type)
	}
	return errs
}

// validateUpdate checks an update of the object itself, which changes only
// metadata.
func validateUpdate(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return append(keptConditions(csr, old, true), keptCertificate(csr, old, false)...)
}

// validateApproval checks a decision: approvals and denials may be added, not
// taken back.
func validateApproval(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := validateConditions(csr, field.NewPath("status", "conditions"))
	errs = append(errs, keptConditions(csr, old, false)...)
	return append(errs, keptCertificate(csr, old, false)...)
}

// validateStatus checks what a signer reports.
func validateStatus(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := validateConditions(csr, field.NewPath("status", "conditions"))
	errs = append(errs, keptConditions(csr, old, true)...)
	errs = append(errs, keptCertificate(csr, old, true)...)
	if len(csr.Status.Certificate) > 0 && !bytes.Equal(csr.Status.Certificate, old.Status.Certificate) {
		if err := parseCertificates(csr.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func keptConditions(csr, old *certificatesv1.CertificateSigningRequest, noNew bool) field.ErrorList {
	path := field.NewPath("status", "conditions")
	count := func(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) int {
		n := 0
		for i := range c.Status.Conditions {
			if c.Status.Conditions[i].Type == t {
				n++
			}
		}
		return n
	}
	var errs field.ErrorList
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		now, before := count(csr, t), count(old, t)
		switch {
		case now < before:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		case now > before && noNew && t != certificatesv1.CertificateFailed:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	return errs
}

func keptCertificate(csr, old *certificatesv1.CertificateSigningRequest, maySet bool) field.ErrorList {
	if bytes.Equal(csr.Status.Certificate, old.Status.Certificate) {
		return nil
	}
	path := field.NewPath("status", "certificate")
	switch {
	case !maySet:
		return field.ErrorList{field.Forbidden(path, "updates may not set certificate content")}
	case len(old.Status.Certificate) > 0:
		return field.ErrorList{field.Forbidden(path, "updates may not modify existing certificate content")}
	}
	return nil
}

// parseCertificates wants a chain of certificates in PEM with no headers.
func parseCertificates(data []byte) error {
	n := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return fmt.Errorf("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return fmt.Errorf("found CERTIFICATE PEM block containing 0 certificates")
		}
		n, data = n+1, rest
	}
	if n == 0 {
		return fmt.Errorf("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
