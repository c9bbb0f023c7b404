package certificates

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestRules(t *testing.T) {
	const (
		client  = certificatesv1.KubeAPIServerClientSignerName
		kubelet = certificatesv1.KubeAPIServerClientKubeletSignerName
		serving = certificatesv1.KubeletServingSignerName
	)
	sig, enc, ca, sa := certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth
	node := func(change ...func(*x509.CertificateRequest)) *x509.CertificateRequest {
		r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}}
		for _, f := range change {
			f(r)
		}
		return r
	}
	withIP := func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }
	for _, tc := range []struct {
		name, signer string
		csr          *x509.CertificateRequest
		usages       []certificatesv1.KeyUsage
		ok           bool
	}{
		{"client", client, node(), []certificatesv1.KeyUsage{sig, ca}, true},
		{"client that also serves", client, node(), []certificatesv1.KeyUsage{ca, sa}, false},
		{"kubelet client", kubelet, node(), []certificatesv1.KeyUsage{sig, enc, ca}, true},
		{"kubelet client without encipherment", kubelet, node(), []certificatesv1.KeyUsage{sig, ca}, true},
		{"kubelet client without signature", kubelet, node(), []certificatesv1.KeyUsage{ca}, false},
		{"kubelet client with an address", kubelet, node(withIP), []certificatesv1.KeyUsage{sig, ca}, false},
		{"kubelet client of another group", kubelet, node(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:nodes", "system:masters"} }), []certificatesv1.KeyUsage{sig, ca}, false},
		{"kubelet client of another name", kubelet, node(func(r *x509.CertificateRequest) { r.Subject.CommonName = "admin" }), []certificatesv1.KeyUsage{sig, ca}, false},
		{"kubelet client with a mail address", kubelet, node(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"x@y"} }), []certificatesv1.KeyUsage{sig, ca}, false},
		{"serving", serving, node(withIP), []certificatesv1.KeyUsage{sig, sa}, true},
		{"serving nothing", serving, node(), []certificatesv1.KeyUsage{sig, sa}, false},
		{"serving that is also a client", serving, node(withIP), []certificatesv1.KeyUsage{sig, sa, ca}, false},
	} {
		if err := rules()[tc.signer](tc.csr, tc.usages); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestExpires(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-2 * time.Hour))}}
	if d := expires(r, now); d != 22*time.Hour {
		t.Errorf("pending: %v", d)
	}
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, LastUpdateTime: metav1.NewTime(now.Add(-50 * time.Minute))}}
	if d := expires(r, now); d != 10*time.Minute {
		t.Errorf("approved: %v", d)
	}
	if !toSign(r) {
		t.Error("approved, but not to be signed")
	}
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue})
	if toSign(r) {
		t.Error("failed, yet to be signed")
	}
	for seconds, want := range map[int32]time.Duration{60: 10 * time.Minute, 3600: time.Hour, 1 << 30: 24 * time.Hour} {
		r.Spec.ExpirationSeconds = ptr.To(seconds)
		if d := lifetime(r, 24*time.Hour); d != want {
			t.Errorf("%d s: %v, want %v", seconds, d, want)
		}
	}
}
