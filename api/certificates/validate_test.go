package certificates

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestSignerNames(t *testing.T) {
	for name, want := range map[string]string{
		"example.com/x": "", "": "s: Required value",
		"x":                                  "must be a fully qualified domain and path of the form 'example.com/signer-name'",
		"x/y":                                "should be a domain with at least two segments separated by dots",
		"Bad_.io/x":                          `s: Invalid value: "Bad_": validating label "Bad_": a lowercase RFC 1123 label must consist`,
		"a.b/" + strings.Repeat("x", 571):    "s: Too long: may not be more than 571 bytes",
		"a.b/" + strings.Repeat("x", 571-10): "must be no more than 253",
	} {
		got := ""
		if errs := validateSignerName(name, field.NewPath("s")); len(errs) > 0 {
			got = errs.ToAggregate().Error()
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%.20q: got %q, want %q", name, got, want)
		}
	}
}

// Who is approved cannot be denied; the list as a whole is at fault.
func TestApprovedAndDenied(t *testing.T) {
	csr := &certificatesv1.CertificateSigningRequest{Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{
		{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}, {Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue},
	}}}
	errs := validateConditions(csr, field.NewPath("status", "conditions"))
	const want = `status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive`
	if len(errs) != 1 || errs[0].Error() != want {
		t.Errorf("got %v, want %s", errs, want)
	}
}
