package main

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
)

// requestSigned has a certificate request in PEM signed by the cluster and
// returns the certificate in PEM, nil when ctx has ended before that, and the
// name of the request. It may be a human who approves.
func requestSigned(ctx context.Context, door client.Interface, csr []byte, signer string, usage certificatesv1.KeyUsage) (cert []byte, name string, err error) {
	requests := client.CertificateSigningRequests.In(door, "")
	made, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: csr, SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	})
	if err != nil {
		return nil, "", err
	}
	for ctx.Err() == nil {
		w, err := requests.Watch(ctx, client.Options{
			FieldSelector: fields.OneTermEqualSelector("metadata.name", made.Name), ResourceVersion: "0",
		})
		if err != nil {
			return nil, made.Name, err
		}
		cert, err := await(ctx, w.ResultChan())
		w.Stop()
		if cert != nil || err != nil {
			return cert, made.Name, err
		}
	}
	return nil, made.Name, nil
}

// await returns the certificate that a watch of a request brings; nothing
// when the watch ends.
func await(ctx context.Context, events <-chan watch.Event) ([]byte, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case e, ok := <-events:
			if !ok || e.Type == watch.Error {
				return nil, nil
			}
			r, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				continue
			}
			if e.Type == watch.Deleted {
				return nil, fmt.Errorf("certificate request %s was deleted", r.Name)
			}
			if len(r.Status.Certificate) > 0 {
				return r.Status.Certificate, nil
			}
			for _, c := range r.Status.Conditions {
				if (c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed) && c.Status != corev1.ConditionFalse {
					return nil, fmt.Errorf("certificate request %s: %s: %s", r.Name, c.Type, c.Message)
				}
			}
		}
	}
}
