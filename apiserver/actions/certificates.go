package actions

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api/certificates"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// CertificateRequests is the hook of certificatesigningrequests: it notes in
// every new request who made it, whatever the request says. Approvers and
// signers rely on that.
func CertificateRequests() apiserver.Hook {
	return apiserver.Hook{Begin: func(_ context.Context, req *client.Request, obj, old runtime.Object) (func(bool), error) {
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && old == nil {
			certificates.SetRequester(csr, req.User.Name, req.User.UID, req.User.Groups, req.User.Extra)
		}
		return nil, nil
	}}
}
