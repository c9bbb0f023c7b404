package podcerts

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"

	"github.com/coxswain/cox/client"
)

// Certificates has certificates made for the pods of one node, and anew when it
// is time. Keys are only in memory and in the pods' volumes: after a restart
// pods get others. It is safe for concurrent use, per pod by one caller.
type Certificates struct {
	c     client.Interface
	node  string
	clock clock.PassiveClock

	mu sync.Mutex
	by map[wanted]*certificate
}

// wanted is a projection of a pod; those that want the same share it.
type wanted struct {
	pod             types.UID
	signer, keyType string
	bundle, key     string // paths
}

type certificate struct {
	have    *Credential
	expires time.Time
	asked   string // name of a request under way
	key     []byte // of that request
	refused error  // by the signer, for good
}

// Credential is a key (PKCS #8) and its certificates, leaf first, as PEM, and
// when it is to be replaced.
type Credential struct {
	Key, Chain []byte
	Refresh    time.Time
}

// patience is how long a signer may take before the pod is told that it waits;
// the next try goes on waiting for the same request.
const patience = 30 * time.Second

func NewCertificates(c client.Interface, node string, clk clock.PassiveClock) *Certificates {
	return &Certificates{c: c, node: node, clock: clk, by: map[wanted]*certificate{}}
}

// Forget drops the keys of a pod.
func (m *Certificates) Forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range m.by {
		if w.pod == uid {
			delete(m.by, w)
		}
	}
}

// Get returns the credential of a projection, and waits for one that has to be
// made. While one that is to be replaced is valid, it stands in.
func (m *Certificates) Get(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (*Credential, error) {
	w := wanted{pod.UID, p.SignerName, p.KeyType, p.CredentialBundlePath, p.KeyPath}
	m.mu.Lock()
	c := m.by[w]
	if c == nil {
		c = &certificate{}
		m.by[w] = c
	}
	m.mu.Unlock()
	now := m.clock.Now()
	if c.have != nil && now.Before(c.have.Refresh) {
		return c.have, nil
	}
	err := c.refused
	if err == nil {
		err = m.renew(ctx, pod, p, c)
	}
	switch {
	case err == nil:
		return c.have, nil
	case c.have != nil && now.Before(c.expires):
		return &Credential{c.have.Key, c.have.Chain, now.Add(time.Minute)}, nil
	}
	return nil, err
}

// renew asks the signer, or goes on waiting for it.
func (m *Certificates) renew(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection, c *certificate) error {
	if c.asked == "" {
		req, key, err := m.request(ctx, pod, p)
		if err != nil {
			return err
		}
		made, err := client.PodCertificateRequests.In(m.c, pod.Namespace).Create(ctx, req)
		if err != nil {
			return fmt.Errorf("create a PodCertificateRequest: %w", err)
		}
		c.asked, c.key = made.Name, key
	}
	req, err := m.answer(ctx, pod.Namespace, c.asked)
	if err != nil {
		return err
	}
	name := c.asked
	c.asked = ""
	if req == nil {
		return fmt.Errorf("PodCertificateRequest %q was deleted before it was answered", name)
	}
	for _, cond := range req.Status.Conditions {
		switch cond.Type {
		case certificatesv1beta1.PodCertificateRequestConditionTypeDenied, certificatesv1beta1.PodCertificateRequestConditionTypeFailed:
			c.refused = fmt.Errorf("PodCertificateRequest %q: %s: %s: %s", name, cond.Type, cond.Reason, cond.Message)
			return c.refused
		}
	}
	chain := blocks([]byte(req.Status.CertificateChain))
	if len(chain) == 0 || req.Status.NotAfter == nil {
		return fmt.Errorf("PodCertificateRequest %q was issued without a certificate", name)
	}
	c.expires = req.Status.NotAfter.Time
	refresh := c.expires
	if t := req.Status.BeginRefreshAt; t != nil {
		refresh = t.Time
	}
	c.have = &Credential{c.key, bytes.Join(chain, nil), refresh}
	return nil
}

// request makes a key and asks for a certificate for it.
func (m *Certificates) request(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (*certificatesv1beta1.PodCertificateRequest, []byte, error) {
	key, err := generate(p.KeyType)
	if err != nil {
		return nil, nil, err
	}
	// It proves that the key is here; who the pod is, signers learn from the
	// request's fields, which the API server has checked.
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	sa, err := client.ServiceAccounts.In(m.c, pod.Namespace).Get(ctx, account)
	if err != nil {
		return nil, nil, err
	}
	node, err := client.Nodes.In(m.c, "").Get(ctx, m.node)
	if err != nil {
		return nil, nil, err
	}
	return &certificatesv1beta1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: "req-" + pod.Name[:min(len(pod.Name), 200)] + "-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1beta1.PodCertificateRequestSpec{
			SignerName: p.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account, ServiceAccountUID: sa.UID,
			NodeName: types.NodeName(m.node), NodeUID: node.UID, MaxExpirationSeconds: p.MaxExpirationSeconds,
			StubPKCS10Request: stub, UnverifiedUserAnnotations: p.UserAnnotations,
		},
	}, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func generate(keyType string) (crypto.Signer, error) {
	switch keyType {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", keyType)
}

// answer waits until a request is issued, denied or failed; nil if it is gone.
func (m *Certificates) answer(ctx context.Context, namespace, name string) (*certificatesv1beta1.PodCertificateRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	requests := client.PodCertificateRequests.In(m.c, namespace)
	// The Node authorizer wants the first.
	opts := client.Options{FieldSelector: fields.AndSelectors(fields.OneTermEqualSelector("spec.nodeName", m.node), fields.OneTermEqualSelector("metadata.name", name))}
	found, rv, err := requests.List(ctx, opts)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, nil
	}
	if answered(found[0]) {
		return found[0], nil
	}
	opts.ResourceVersion = rv
	wi, err := requests.Watch(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer wi.Stop()
	for {
		select {
		case e, open := <-wi.ResultChan():
			req, ok := e.Object.(*certificatesv1beta1.PodCertificateRequest)
			switch {
			case !open || e.Type == watch.Error:
				return nil, fmt.Errorf("the watch of PodCertificateRequest %q ended", name)
			case ok && e.Type == watch.Deleted:
				return nil, nil
			case ok && answered(req):
				return req, nil
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("PodCertificateRequest %q waits for its signer", name)
		}
	}
}

func answered(r *certificatesv1beta1.PodCertificateRequest) bool {
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1beta1.PodCertificateRequestConditionTypeIssued, certificatesv1beta1.PodCertificateRequestConditionTypeDenied,
			certificatesv1beta1.PodCertificateRequestConditionTypeFailed:
			return true
		}
	}
	return false
}
