package sim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/pki"
)

// Identity asks the cluster for the client certificate of a node, as an
// administrator who approves it too, and returns the door of the node's own
// user: its own connection to the server that admin leads to.
func Identity(ctx context.Context, door client.Interface, admin *rest.Config, node string) (client.Interface, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := pki.NewCSR(key, pki.Spec{CommonName: "system:node:" + node, Organizations: []string{"system:nodes"}})
	if err != nil {
		return nil, err
	}
	cert, err := certificate(ctx, door, node, csr)
	if err != nil {
		return nil, fmt.Errorf("certificate of node %s: %w", node, err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
	if err != nil {
		return nil, err
	}
	server, err := rest.TLSConfigFor(admin)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if server != nil {
		conf.RootCAs, conf.ServerName, conf.InsecureSkipVerify = server.RootCAs, server.ServerName, server.InsecureSkipVerify
	}
	return client.Remote(&rest.Config{Host: admin.Host, UserAgent: "kubelet (hollow)", Transport: &http.Transport{
		TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 30 * time.Second,
		DialContext: (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	}})
}

// certificate requests, approves, waits and tidies up.
func certificate(ctx context.Context, door client.Interface, node string, csr []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	in := client.CertificateSigningRequests.In(door, "")
	name := "hollow-" + node
	if err := in.Delete(ctx, name, client.Options{}); err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	made, err := in.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: csr, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Delete(context.WithoutCancel(ctx), name, client.Options{}) }() // the cleaner takes what stays
	w, err := in.Watch(ctx, client.Options{ResourceVersion: made.ResourceVersion, FieldSelector: fields.OneTermEqualSelector("metadata.name", name)})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	_, err = in.Mutate(ctx, name, "approval", func(r *certificatesv1.CertificateSigningRequest) (bool, error) {
		for _, c := range r.Status.Conditions {
			if c.Type == certificatesv1.CertificateApproved {
				return false, nil // the cluster's approver was quicker
			}
		}
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Hollow", Message: "asked for and approved by cox sim",
		})
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("approving: %w", err)
	}
	for ev := range w.ResultChan() {
		if r, ok := ev.Object.(*certificatesv1.CertificateSigningRequest); ok && len(r.Status.Certificate) > 0 {
			return r.Status.Certificate, nil
		}
	}
	return nil, fmt.Errorf("nobody signed it: does a controller manager run? (%w)", ctx.Err())
}
