package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

const (
	minPodExpiration     = 3600           // seconds
	defaultExpiration    = 24 * 3600      // and the most of signers of kubernetes.io
	maxPodExpiration     = 91 * 24 * 3600 // seconds
	maxKeyBytes          = 10 * 1024
	maxUID               = 128
	maxChain             = 100 * 1024
	maxUserAnnotations   = 256 * 1024
	clockSkew            = 5 * time.Minute  // between a signer and this server
	refreshMargin        = 10 * time.Minute // of a certificate's beginning and end
	shortestCertificates = time.Hour
)

func validatePodRequest(r *podRequest) field.ErrorList {
	s, path := &r.Spec, field.NewPath("spec")
	errs := validateSignerName(s.SignerName, path.Child("signerName"))
	for _, n := range []struct {
		name, value string
		uid         string
	}{
		{"pod", s.PodName, string(s.PodUID)}, {"serviceAccount", s.ServiceAccountName, string(s.ServiceAccountUID)}, {"node", string(s.NodeName), string(s.NodeUID)},
	} {
		errs = append(errs, check.Subdomain(n.value, path.Child(n.name+"Name"))...)
		at := path.Child(n.name + "UID")
		switch {
		case n.uid == "":
			errs = append(errs, field.Invalid(at, n.uid, "must not be empty"))
		case len(n.uid) > maxUID:
			errs = append(errs, field.TooLong(at, "" /*unused*/, maxUID))
		}
	}
	errs = append(errs, validateExpiration(s, path.Child("maxExpirationSeconds"))...)
	errs = append(errs, validateRequestedKey(s, path)...)
	return append(errs, validateUserAnnotations(s.UnverifiedUserAnnotations, path.Child("unverifiedUserAnnotations"))...)
}

func validateExpiration(s *certificatesv1beta1.PodCertificateRequestSpec, path *field.Path) field.ErrorList {
	if s.MaxExpirationSeconds == nil {
		return field.ErrorList{field.Required(path, "must be set")}
	}
	most := int32(maxPodExpiration)
	domain, _, _ := strings.Cut(s.SignerName, "/")
	if domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		most = defaultExpiration
	}
	if n := *s.MaxExpirationSeconds; n < minPodExpiration || n > most {
		return field.ErrorList{field.Invalid(path, n, fmt.Sprintf("must be in the range [%d, %d]", minPodExpiration, most))}
	}
	return nil
}

// validateRequestedKey wants a key of a kind that is strong enough, and the
// proof that the requester has its other half.
func validateRequestedKey(s *certificatesv1beta1.PodCertificateRequestSpec, path *field.Path) field.ErrorList {
	stub, key, proof := len(s.StubPKCS10Request) > 0, len(s.PKIXPublicKey) > 0, len(s.ProofOfPossession) > 0
	if key != proof || stub == key {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")}
	}
	if stub {
		at := path.Child("stubPKCS10Request")
		if len(s.StubPKCS10Request) > maxKeyBytes {
			return field.ErrorList{field.TooLong(at, "" /*unused*/, maxKeyBytes)}
		}
		csr, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
		if err != nil {
			return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "must be a valid PKCS#10 CSR")}
		}
		if errs := validateKeyKind(csr.PublicKey, true, at); len(errs) > 0 {
			return errs
		}
		if csr.CheckSignature() != nil {
			return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "invalid signature")}
		}
		return nil
	}
	at := path.Child("pkixPublicKey")
	if len(s.PKIXPublicKey) > maxKeyBytes {
		return field.ErrorList{field.TooLong(at, "" /*unused*/, maxKeyBytes)}
	}
	if len(s.ProofOfPossession) > maxKeyBytes {
		return field.ErrorList{field.TooLong(path.Child("proofOfPossession"), "" /*unused*/, maxKeyBytes)}
	}
	public, err := x509.ParsePKIXPublicKey(s.PKIXPublicKey)
	if err != nil {
		return field.ErrorList{field.Invalid(at, s.PKIXPublicKey, "must be a valid PKIX-serialized public key")}
	}
	if errs := validateKeyKind(public, false, at); len(errs) > 0 {
		return errs
	}
	if !proves(public, s.ProofOfPossession, []byte(s.PodUID)) {
		return field.ErrorList{field.Invalid(path.Child("proofOfPossession"), field.OmitValueType{}, "could not verify proof-of-possession signature")}
	}
	return nil
}

// validateKeyKind accepts RSA of 3072 and 4096 bits, ED25519, and the curves
// P256, P384 and P521; upstream's words do not name the last of a bare key.
func validateKeyKind(public crypto.PublicKey, inRequest bool, path *field.Path) field.ErrorList {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.Size() * 8; n != 3072 && n != 4096 {
			return field.ErrorList{field.Invalid(path, fmt.Sprintf("%d-bit modulus", n), "RSA keys must have modulus size 3072 or 4096")}
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			curves := "P256 or P384"
			if inRequest {
				curves = "P256, P384, or P521"
			}
			return field.ErrorList{field.Invalid(path, "curve "+k.Curve.Params().Name, "elliptic public keys must use curve "+curves)}
		}
	case ed25519.PublicKey:
	default:
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")}
	}
	return nil
}

// proves says that signature is of data by the other half of the key.
func proves(public crypto.PublicKey, signature, data []byte) bool {
	sum := sha256.Sum256(data)
	switch k := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPSS(k, crypto.SHA256, sum[:], signature, nil) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(k, data, signature)
	}
	return false
}

func validateUserAnnotations(all map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for k, v := range all {
		size += len(k) + len(v)
		lower := strings.ToLower(k) // keys may be in mixed case
		if messages := validation.IsQualifiedName(lower); len(messages) > 0 {
			errs = append(errs, check.Each(path, lower, messages)...)
		} else if !strings.Contains(k, "/") {
			errs = append(errs, field.Invalid(path, k, `must be a domain-prefixed key (such as "acme.io/foo")`))
		}
	}
	if size > maxUserAnnotations {
		errs = append(errs, field.TooLong(path, "" /*unused*/, maxUserAnnotations))
	}
	return errs
}

// podRequestSpec shows as upstream's internal type, whose fields have no JSON
// names.
type podRequestSpec struct {
	SignerName, PodName, PodUID, ServiceAccountName, ServiceAccountUID, NodeName, NodeUID string
	MaxExpirationSeconds                                                                  *int32
	PKIXPublicKey, ProofOfPossession, StubPKCS10Request                                   []byte
	UnverifiedUserAnnotations                                                             map[string]string
}

func shownSpec(s *certificatesv1beta1.PodCertificateRequestSpec) podRequestSpec {
	return podRequestSpec{
		s.SignerName, s.PodName, string(s.PodUID), s.ServiceAccountName, string(s.ServiceAccountUID), string(s.NodeName), string(s.NodeUID),
		s.MaxExpirationSeconds, s.PKIXPublicKey, s.ProofOfPossession, s.StubPKCS10Request, s.UnverifiedUserAnnotations,
	}
}

func validatePodRequestUpdate(r, old *podRequest) field.ErrorList {
	return check.Immutable(shownSpec(&r.Spec), shownSpec(&old.Spec), field.NewPath("spec"))
}

// validatePodRequestStatus lets a signer answer once.
func validatePodRequestStatus(r, old *podRequest) field.ErrorList {
	return validateAnswer(r, old, time.Now())
}

func validateAnswer(r, old *podRequest, now time.Time) field.ErrorList {
	path := field.NewPath("status")
	conditions := path.Child("conditions")
	errs := metavalidation.ValidateConditions(r.Status.Conditions, conditions)
	given := 0
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		at := conditions.Child(fmt.Sprintf("[%d]", i)) // as upstream's
		if !isAnswer(c.Type) {
			errs = append(errs, field.NotSupported(at.Child("type"), c.Type, []string{"Issued", "Denied", "Failed"}))
			continue
		}
		if given++; given > 1 {
			errs = append(errs, field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		errs = append(errs, check.OneOf(c.Status, at.Child("status"), metav1.ConditionTrue)...)
	}
	if len(errs) > 0 || equality.Semantic.DeepEqual(&r.Status, &old.Status) {
		return errs
	}
	refused := func(why string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, why)}
	}
	if answer(old) != "Pending" {
		return refused("immutable after PodCertificateRequest is issued, denied, or failed")
	}
	switch answer(r) {
	case "Pending":
		return refused(`status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	case certificatesv1beta1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(r, now, path)
	}
	if s := &r.Status; s.CertificateChain != "" || s.NotBefore != nil || s.NotAfter != nil || s.BeginRefreshAt != nil {
		return refused("non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	}
	return nil
}

func validateIssued(r *podRequest, now time.Time, path *field.Path) field.ErrorList {
	leaf, errs := validateChain(r, path.Child("certificateChain"))
	if len(errs) > 0 {
		return errs
	}
	s := &r.Status
	at := path.Child("notBefore")
	switch {
	case s.NotBefore == nil:
		errs = append(errs, field.Required(at, "must be present and consistent with the issued certificate"))
	case !s.NotBefore.Time.Equal(leaf.NotBefore):
		errs = append(errs, field.Invalid(at, s.NotBefore, "must be set to the NotBefore time encoded in the leaf certificate"))
	case now.Sub(s.NotBefore.Time).Abs() > clockSkew:
		errs = append(errs, field.Invalid(at, s.NotBefore, "must be set to within 5 minutes of kube-apiserver's current time"))
	}
	at = path.Child("notAfter")
	switch {
	case s.NotAfter == nil:
		errs = append(errs, field.Required(at, "must be present and consistent with the issued certificate"))
	case !s.NotAfter.Time.Equal(leaf.NotAfter):
		errs = append(errs, field.Invalid(at, s.NotAfter, "must be set to the NotAfter time encoded in the leaf certificate"))
	}
	at = path.Child("beginRefreshAt")
	if s.BeginRefreshAt == nil {
		return append(errs, field.Required(at, "must be present and in the range [notbefore+10min, notafter-10min]"))
	}
	if s.NotBefore != nil && s.BeginRefreshAt.Time.Before(s.NotBefore.Add(refreshMargin)) {
		errs = append(errs, field.Invalid(at, s.BeginRefreshAt, "must be at least 10 minutes after status.notBefore"))
	}
	if s.NotAfter != nil && s.BeginRefreshAt.Time.After(s.NotAfter.Add(-refreshMargin)) {
		errs = append(errs, field.Invalid(at, s.BeginRefreshAt, "must be at least 10 minutes before status.notAfter"))
	}
	return errs
}

// validateChain returns the leaf of what was issued: a certificate of the key
// that was asked for, no longer than was asked for.
func validateChain(r *podRequest, path *field.Path) (*x509.Certificate, field.ErrorList) {
	text := r.Status.CertificateChain
	if len(text) > maxChain {
		return nil, field.ErrorList{field.TooLong(path, "" /*unused*/, maxChain)}
	}
	invalid := func(value any, why string) (*x509.Certificate, field.ErrorList) {
		return nil, field.ErrorList{field.Invalid(path, value, why)}
	}
	var leaf *x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return invalid(text, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil && leaf == nil:
			return invalid(text, "leaf certificate does not parse as valid X.509")
		case err != nil:
			return invalid(text, "intermediate certificate does not parse as valid X.509")
		case leaf == nil:
			leaf = cert
		}
	}
	if leaf == nil {
		return invalid(text, "issued certificate chain must contain at least one certificate")
	}
	if want, ok := requestedKey(&r.Spec).(interface{ Equal(crypto.PublicKey) bool }); !ok || !want.Equal(leaf.PublicKey) {
		return invalid(text, "leaf certificate was not issued to the requested public key")
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if n := r.Spec.MaxExpirationSeconds; n != nil && life > time.Duration(*n)*time.Second {
		return invalid(life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%d)", *n))
	}
	if life < shortestCertificates {
		return invalid(life, "leaf certificate lifetime must be >= 1 hour")
	}
	return leaf, nil
}

func requestedKey(s *certificatesv1beta1.PodCertificateRequestSpec) crypto.PublicKey {
	if len(s.StubPKCS10Request) > 0 {
		if csr, err := x509.ParseCertificateRequest(s.StubPKCS10Request); err == nil {
			return csr.PublicKey
		}
		return nil
	}
	key, err := x509.ParsePKIXPublicKey(s.PKIXPublicKey)
	if err != nil {
		return nil
	}
	return key
}
