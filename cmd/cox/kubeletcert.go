package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/atomicfile"
	"github.com/coxswain/cox/pki"
)

// servingCertificate returns where the certificate of the kubelet's API comes
// from: from a file, made if need be and signed by itself, or, with bootstrap
// (serverTLSBootstrap), from the cluster, which signs each new one
// (kubernetes.io/kubelet-serving); then requested is to be run.
func servingCertificate(bootstrap bool, dir, host string, ips []string, door client.Interface, log *slog.Logger) (certificate func() (*tls.Certificate, error), requested *pki.Requested, err error) {
	if !bootstrap {
		own, err := ownCertificate(dir, host, ips)
		return func() (*tls.Certificate, error) { return own, err }, nil, err
	}
	spec := pki.Spec{
		CommonName: "system:node:" + host, Organizations: []string{"system:nodes"}, DNSNames: []string{host},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range ips {
		if a := net.ParseIP(ip); a != nil {
			spec.IPs = append(spec.IPs, a)
		}
	}
	requested, err = pki.NewRequested(pki.RequestedConfig{
		Base: filepath.Join(dir, "kubelet-server"), Log: log, Spec: func() pki.Spec { return spec },
		Sign: func(ctx context.Context, csr []byte) ([]byte, error) {
			cert, name, err := requestSigned(ctx, door, csr, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth)
			if cert == nil && err == nil {
				err = fmt.Errorf("certificate request %s was not approved yet", name)
			}
			return cert, err
		},
	})
	if err != nil {
		return nil, nil, err
	}
	return requested.Certificate, requested, nil
}

// ownCertificate returns the kubelet's serving certificate of a folder
// (kubelet.crt, kubelet.key), which it makes, signed by itself, if there is
// none or it is about to end.
func ownCertificate(dir, host string, ips []string) (*tls.Certificate, error) {
	certFile, keyFile := filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key")
	if c, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		if leaf, err := x509.ParseCertificate(c.Certificate[0]); err == nil && time.Until(leaf.NotAfter) > 30*24*time.Hour {
			return &c, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("%s@%d", host, time.Now().Unix())},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{host},
	}
	for _, ip := range ips {
		if a := net.ParseIP(ip); a != nil {
			t.IPAddresses = append(t.IPAddresses, a)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
