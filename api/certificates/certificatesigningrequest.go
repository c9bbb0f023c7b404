package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/coxswain/cox/api"
)

var certificateSigningRequestParts = api.SpecStatus(func(o *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequestSpec, *certificatesv1.CertificateSigningRequestStatus) {
	return &o.Spec, &o.Status
})

func certificateSigningRequestKind() *api.Kind {
	gvk := certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest")
	return &api.Kind{
		Hub: gvk, HubListKind: "CertificateSigningRequestList",
		Resource: "certificatesigningrequests", Singular: "certificatesigningrequest",
		ShortNames: []string{"csr"},
		Prefix:     "certificatesigningrequests",
		New:        api.New[certificatesv1.CertificateSigningRequest](), NewList: api.New[certificatesv1.CertificateSigningRequestList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			PrepareCreate: certificateSigningRequestParts.PrepareCreate, PrepareUpdate: certificateSigningRequestParts.PrepareUpdate,
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: certificateSigningRequestParts.PrepareStatus}},
		},
	}
}
