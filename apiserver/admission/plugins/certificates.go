package plugins

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

var csrResource = client.CertificateSigningRequests.GroupResource()

// certificateApproval lets only those approve or deny a request who may do so
// for its signer.
func certificateApproval(d deps) *plugin {
	return &plugin{ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
		if !ok || !is(a, csrResource, "approval") {
			return nil
		}
		if !d.maySigner(ctx, &a.User, "approve", old.Spec.SignerName) {
			return forbid(a, fmt.Sprintf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
		}
		return nil
	}}
}

// certificateSigning lets only those fill in a certificate, or say that
// signing failed, who may sign for the signer.
func certificateSigning(d deps) *plugin {
	return &plugin{ops: ops(admission.Update), validate: func(ctx context.Context, a *admission.Attributes) error {
		old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
		csr, ok2 := a.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || !ok2 || !is(a, csrResource, "status") {
			return nil
		}
		if slices.Equal(csr.Status.Certificate, old.Status.Certificate) && reflect.DeepEqual(csr.Status.Conditions, old.Status.Conditions) {
			return nil
		}
		if !d.maySigner(ctx, &a.User, "sign", old.Spec.SignerName) {
			return forbid(a, fmt.Sprintf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
		}
		return nil
	}}
}

// maySigner asks for a verb on a signer, by its name or by "domain/*".
func (d deps) maySigner(ctx context.Context, u *client.User, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := d.authz.Authorize(ctx, &authz.Attributes{
			User: *u, Verb: verb, Group: "certificates.k8s.io", Version: "*", Resource: "signers", Name: name,
		})
		if err != nil {
			d.log.Warn("cannot tell whether a user may use a signer", "user", u.Name, "verb", verb, "signer", name, "error", err)
		}
		if decision == authz.Allow {
			return true
		}
	}
	return false
}

// certificateSubjectRestriction keeps clients from asking for a certificate
// that would put them into system:masters, past all authorization.
func certificateSubjectRestriction() *plugin {
	return &plugin{ops: ops(admission.Create), validate: func(_ context.Context, a *admission.Attributes) error {
		csr, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || !is(a, csrResource, "") || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
			return nil
		}
		req, err := pki.ParseCSR(csr.Spec.Request)
		if err != nil {
			return forbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
		}
		if slices.Contains(req.Subject.Organization, authz.GroupMasters) {
			return forbid(a, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
		}
		return nil
	}}
}
