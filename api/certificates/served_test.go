package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate for a public key as PEM.
func issue(t *testing.T, by *ecdsa.PrivateKey, public crypto.PublicKey, authority bool, from, to time.Time) string {
	t.Helper()
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: authority, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func expect(t *testing.T, what string, errs field.ErrorList, want string) {
	t.Helper()
	got := ""
	if len(errs) > 0 {
		got = errs.ToAggregate().Error()
	}
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestTrustBundles(t *testing.T) {
	now := time.Now()
	key := newKey(t, elliptic.P256())
	ca, leaf := issue(t, key, &key.PublicKey, true, now, now.Add(time.Hour)), issue(t, key, &key.PublicKey, false, now, now.Add(time.Hour))
	for what, c := range map[string]struct{ name, signer, text, err string }{
		"plain":            {"a", "", ca, ""},
		"text between":     {"a", "", "x\n" + ca + "\ny", ""},
		"of a signer":      {"example.com:foo:v1", "example.com/foo", ca, ""},
		"empty":            {"a", "", "", "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided"},
		"twice":            {"a", "", ca + ca, "duplicate trust anchor (indices [0 1])"},
		"a leaf":           {"a", "", ca + leaf, "entry 1 does not have the CA bit set"},
		"headers":          {"a", "", strings.Replace(ca, "-----\n", "-----\nA: b\n\n", 1), "entry 0 has PEM block headers"},
		"another block":    {"a", "", strings.ReplaceAll(ca, "CERTIFICATE", "FOO"), "entry 0 has bad block type: FOO"},
		"no certificate":   {"a", "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "entry 0 does not parse as X.509"},
		"large":            {"a", "", strings.Repeat(" ", 1<<20) + ca, "spec.trustBundle: Too long: may not be more than 1048576 bytes"},
		"colon, no signer": {"a:b", "", ca, `metadata.name: Invalid value: "a:b": ClusterTrustBundle without signer name must not have ":" in its name`},
		"foreign name":     {"b", "example.com/foo", ca, "ClusterTrustBundle for signerName example.com/foo must be named with prefix example.com:foo:"},
		"bad signer":       {"foo:b", "foo", ca, "spec.signerName: Invalid value: \"foo\": must be a fully qualified domain"},
	} {
		b := &trustBundle{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: certificatesv1beta1.ClusterTrustBundleSpec{SignerName: c.signer, TrustBundle: c.text}}
		expect(t, what, validateTrustBundle(b), c.err)
	}
	old := &trustBundle{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: certificatesv1beta1.ClusterTrustBundleSpec{TrustBundle: ca}}
	b := old.DeepCopy()
	b.Spec.SignerName = "example.com/foo"
	expect(t, "another signer", validateTrustBundleUpdate(b, old), `spec.signerName: Invalid value: "example.com/foo": field is immutable`)
	for name, good := range map[string]bool{"a": true, "x:y:a": true, "x:": false, "A_b": false} {
		if errs := trustBundleName(name, false); (len(errs) == 0) != good {
			t.Errorf("name %s: %v", name, errs)
		}
	}
}

func request(t *testing.T, key *ecdsa.PrivateKey) *podRequest {
	t.Helper()
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &podRequest{Spec: certificatesv1beta1.PodCertificateRequestSpec{
		SignerName: "example.com/foo", PodName: "p", PodUID: "pu", ServiceAccountName: "sa", ServiceAccountUID: "su", NodeName: "n", NodeUID: "nu",
		MaxExpirationSeconds: new(int32(86400)), StubPKCS10Request: stub,
	}}
}

func TestPodRequests(t *testing.T) {
	key := newKey(t, elliptic.P256())
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	weak := request(t, newKey(t, elliptic.P224()))
	for what, c := range map[string]struct {
		change func(*certificatesv1beta1.PodCertificateRequestSpec)
		err    string
	}{
		"good":  {func(*certificatesv1beta1.PodCertificateRequestSpec) {}, ""},
		"short": {func(s *certificatesv1beta1.PodCertificateRequestSpec) { s.MaxExpirationSeconds = new(int32(3599)) }, "spec.maxExpirationSeconds: Invalid value: 3599: must be in the range [3600, 7862400]"},
		"long":  {func(s *certificatesv1beta1.PodCertificateRequestSpec) { s.MaxExpirationSeconds = new(int32(7862401)) }, "must be in the range [3600, 7862400]"},
		"long, ours": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.SignerName, s.MaxExpirationSeconds = "kubernetes.io/x", new(int32(86401))
		}, "must be in the range [3600, 86400]"},
		"no pod":   {func(s *certificatesv1beta1.PodCertificateRequestSpec) { s.PodName = "" }, `spec.podName: Invalid value: ""`},
		"no UID":   {func(s *certificatesv1beta1.PodCertificateRequestSpec) { s.NodeUID = "" }, `spec.nodeUID: Invalid value: "": must not be empty`},
		"long UID": {func(s *certificatesv1beta1.PodCertificateRequestSpec) { s.PodUID = types.UID(strings.Repeat("x", 129)) }, "spec.podUID: Too long: may not be more than 128 bytes"},
		"no key":   {func(s *certificatesv1beta1.PodCertificateRequestSpec) { s.StubPKCS10Request = nil }, "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"},
		"both": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.PKIXPublicKey, s.ProofOfPossession = public, public
		}, "exactly one of"},
		"wrong proof": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.StubPKCS10Request, s.PKIXPublicKey, s.ProofOfPossession = nil, public, public
		}, "spec.proofOfPossession: Invalid value: could not verify proof-of-possession signature"},
		"forged": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.StubPKCS10Request[len(s.StubPKCS10Request)-1] ^= 1
		}, "spec.stubPKCS10Request: Invalid value"},
		"weak": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.StubPKCS10Request = weak.Spec.StubPKCS10Request
		}, `"curve P-224": elliptic public keys must use curve P256, P384, or P521`},
		"no domain": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.UnverifiedUserAnnotations = map[string]string{"a": "b"}
		}, `must be a domain-prefixed key (such as "acme.io/foo")`},
		"annotation": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.UnverifiedUserAnnotations = map[string]string{"X.io/a": "b"}
		}, ""},
		"much annotated": {func(s *certificatesv1beta1.PodCertificateRequestSpec) {
			s.UnverifiedUserAnnotations = map[string]string{"x.io/a": strings.Repeat("b", 1<<18)}
		}, "Too long: may not be more than 262144 bytes"},
	} {
		r := request(t, key)
		c.change(&r.Spec)
		expect(t, what, validatePodRequest(r), c.err)
	}
	old, now := request(t, key), request(t, key)
	now.Spec = *old.Spec.DeepCopy()
	expect(t, "unchanged", validatePodRequestUpdate(now, old), "")
	now.Spec.PodName = "other"
	expect(t, "another pod", validatePodRequestUpdate(now, old), "field is immutable")
}

func TestAnswers(t *testing.T) {
	key, other, ca := newKey(t, elliptic.P256()), newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	now := time.Now().Truncate(time.Second)
	says := func(types ...string) (out []metav1.Condition) {
		for _, c := range types {
			out = append(out, metav1.Condition{Type: c, Status: metav1.ConditionTrue, Reason: "R", LastTransitionTime: metav1.Time{Time: now}})
		}
		return out
	}
	at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }
	issued := func(from, to time.Duration, public crypto.PublicKey) certificatesv1beta1.PodCertificateRequestStatus {
		return certificatesv1beta1.PodCertificateRequestStatus{
			Conditions: says("Issued"), CertificateChain: issue(t, ca, public, false, now.Add(from), now.Add(to)),
			NotBefore: at(from), NotAfter: at(to), BeginRefreshAt: at((from + to) / 2),
		}
	}
	with := func(s certificatesv1beta1.PodCertificateRequestStatus, change func(*certificatesv1beta1.PodCertificateRequestStatus)) certificatesv1beta1.PodCertificateRequestStatus {
		change(&s)
		return s
	}
	good := issued(0, 12*time.Hour, &key.PublicKey)
	type status = certificatesv1beta1.PodCertificateRequestStatus
	for what, c := range map[string]struct {
		old, now status
		err      string
	}{
		"issued":          {status{}, good, ""},
		"denied":          {status{}, status{Conditions: says("Denied")}, ""},
		"two answers":     {status{}, status{Conditions: says("Denied", "Failed")}, `There may be at most one condition with type "Issued", "Denied", or "Failed"`},
		"another word":    {status{}, status{Conditions: says("Foo")}, `status.conditions.[0].type: Unsupported value: "Foo"`},
		"denied chain":    {status{}, with(good, func(s *status) { s.Conditions = says("Denied") }), "non-condition status fields must be empty"},
		"no answer":       {status{}, with(good, func(s *status) { s.Conditions = nil }), "status is immutable unless transitioning"},
		"answered before": {status{Conditions: says("Denied")}, good, "immutable after PodCertificateRequest is issued, denied, or failed"},
		"unchanged":       {good, good, ""},
		"another key":     {status{}, issued(0, 12*time.Hour, &other.PublicKey), "leaf certificate was not issued to the requested public key"},
		"too long":        {status{}, issued(0, 25*time.Hour, &key.PublicKey), "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"},
		"too short":       {status{}, issued(0, 59*time.Minute, &key.PublicKey), "leaf certificate lifetime must be >= 1 hour"},
		"old":             {status{}, issued(-6*time.Minute, 12*time.Hour, &key.PublicKey), "must be set to within 5 minutes of kube-apiserver's current time"},
		"early":           {status{}, issued(6*time.Minute, 12*time.Hour, &key.PublicKey), "must be set to within 5 minutes of kube-apiserver's current time"},
		"no chain":        {status{}, with(good, func(s *status) { s.CertificateChain = "" }), "must contain at least one certificate"},
		"no beginning":    {status{}, with(good, func(s *status) { s.NotBefore = nil }), "status.notBefore: Required value"},
		"another end":     {status{}, with(good, func(s *status) { s.NotAfter = at(time.Hour) }), "must be set to the NotAfter time encoded in the leaf certificate"},
		"no refresh":      {status{}, with(good, func(s *status) { s.BeginRefreshAt = nil }), "status.beginRefreshAt: Required value"},
		"late refresh":    {status{}, with(good, func(s *status) { s.BeginRefreshAt = s.NotAfter }), "must be at least 10 minutes before status.notAfter"},
		"early refresh":   {status{}, with(good, func(s *status) { s.BeginRefreshAt = s.NotBefore }), "must be at least 10 minutes after status.notBefore"},
	} {
		r := request(t, key)
		old := r.DeepCopy()
		old.Status, r.Status = c.old, c.now
		expect(t, what, validateAnswer(r, old, now), c.err)
	}
}
