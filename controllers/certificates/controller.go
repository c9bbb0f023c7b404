package certificates

import (
	"context"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
	"github.com/coxswain/cox/pki"
)

const workers = 2

// Config is what signing needs.
type Config struct {
	// ClientCA signs client certificates, KubeletCA those of kubelets, ServingCA
	// those of kubelets' servers, LegacyCA those of
	// kubernetes.io/legacy-unknown. A signer whose CA is nil signs nothing.
	ClientCA, KubeletCA, ServingCA, LegacyCA *pki.CA
	// Duration is the longest validity; 0 is a year.
	Duration time.Duration
	// Reserved is what no kubelet may serve under.
	Reserved Reserved
}

// Duty is one of the things to be done about requests. Each is a controller
// of its own, as upstream's are.
type Duty int

// The duties: to approve what needs no human's look, to sign what is approved,
// to delete what is over.
const (
	Approve Duty = iota
	Sign
	Clean
)

// Controller approves, signs or deletes requests.
type Controller struct {
	env      controllers.Env
	cfg      Config
	duty     Duty
	rules    map[string]rule
	requests client.Informer[*certificatesv1.CertificateSigningRequest]
	nodes    client.Informer[*corev1.Node]
	loop     *client.Loop
	writes   client.Writes
}

// New makes the controller and registers its handlers.
func New(env controllers.Env, cfg Config, duty Duty) (*Controller, error) {
	if cfg.Duration == 0 {
		cfg.Duration = 365 * 24 * time.Hour
	}
	c := &Controller{env: env, cfg: cfg, duty: duty, rules: rules(), requests: client.InformerFor(env.Informers, client.CertificateSigningRequests), nodes: client.InformerFor(env.Informers, client.Nodes)}
	c.loop = env.NewLoop("certificate", c.reconcile)
	if duty == Approve {
		if _, err := c.nodes.OnChange(c.nodeChanged); err != nil {
			return nil, err
		}
	}
	_, err := c.requests.OnChange(func(r, old *certificatesv1.CertificateSigningRequest) {
		if r == nil {
			r = old
		}
		c.loop.AddObject(r)
	})
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.loop.Run(ctx, c.env.WorkersOr(workers)) }

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	r, ok := c.requests.Get("", name)
	if !ok {
		c.writes.Forget(name)
		return 0, nil
	}
	if !c.requests.CaughtUp(&c.writes, name) {
		return 0, nil // the event that is still to come wakes us
	}
	again := expires(r, c.env.Clock.Now())
	var err error
	switch {
	case c.duty == Clean && again <= 0:
		err = client.CertificateSigningRequests.In(c.env.Client, "").Delete(ctx, name, client.Exactly(r.UID))
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("deleting the request: %w", err)
		}
		return 0, nil
	case c.duty == Clean:
		return again, nil
	case c.duty == Approve && again > 0 && !decided(r):
		err = c.approve(ctx, r)
	case c.duty == Sign && again > 0 && toSign(r):
		err = c.sign(ctx, r)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	return 0, nil
}

// approve asks whether the requester may have such a certificate without a
// human's look.
func (c *Controller) approve(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	if csr, name, ok := servingRequest(r); ok {
		node, known := c.nodes.Get("", name)
		if !known {
			return nil // looked at again when it is
		}
		if why := mayServe(csr, node, c.nodes.List("", nil), c.cfg.Reserved); why != "" {
			c.env.Log.Warn("a kubelet's serving certificate waits for a human's approval", "request", r.Name, "node", name, "reason", why)
			return nil
		}
		return c.approved(ctx, r, "Auto approving kubelet serving certificate for the node's own addresses.")
	}
	subresource, message, ok := approval(r)
	if !ok {
		return nil
	}
	// Who only holds a token must not become a node that is there already.
	if name := requestedNode(r); subresource == "nodeclient" {
		if _, taken := c.nodes.Get("", name); taken {
			c.env.Log.Warn("a token's holder asks for the certificate of a node that exists; it waits for a human's approval", "request", r.Name, "node", name)
			return nil
		}
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range r.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	got, err := c.env.Client.Do(ctx, &client.Request{
		Verb: client.Create, Resource: authorizationv1.SchemeGroupVersion.WithResource("subjectaccessreviews"),
		Object: &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: "certificates.k8s.io", Version: "*", Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource,
			},
		}},
	})
	if err != nil {
		return fmt.Errorf("asking whether %s may have it: %w", r.Spec.Username, err)
	}
	if sar, ok := got.Object.(*authorizationv1.SubjectAccessReview); !ok || !sar.Status.Allowed {
		return nil // a human may still decide
	}
	return c.approved(ctx, r, message)
}

func (c *Controller) approved(ctx context.Context, r *certificatesv1.CertificateSigningRequest, message string) error {
	m := r.DeepCopy()
	now := metav1.NewTime(c.env.Clock.Now())
	m.Status.Conditions = append(m.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	})
	return c.write(ctx, m, "approval")
}

func (c *Controller) sign(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	rule, ours := c.rules[r.Spec.SignerName]
	ca := c.ca(r.Spec.SignerName)
	if !ours || ca == nil {
		return nil
	}
	m := r.DeepCopy()
	now := c.env.Clock.Now()
	cert, err := signWith(ca, rule, r, now, lifetime(r, c.cfg.Duration))
	if err != nil {
		t := metav1.NewTime(now)
		m.Status.Conditions = append(m.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: t, LastTransitionTime: t,
		})
	} else {
		m.Status.Certificate = cert
	}
	return c.write(ctx, m, "status")
}

func (c *Controller) ca(signer string) *pki.CA {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		return c.cfg.ClientCA
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return c.cfg.KubeletCA
	case certificatesv1.KubeletServingSignerName:
		return c.cfg.ServingCA
	}
	return c.cfg.LegacyCA
}

// signWith checks and signs; an error is the request's fault.
func signWith(ca *pki.CA, rule rule, r *certificatesv1.CertificateSigningRequest, now time.Time, ttl time.Duration) ([]byte, error) {
	csr, err := pki.ParseCSR(r.Spec.Request)
	if err != nil {
		return nil, err
	}
	if err := rule(csr, r.Spec.Usages); err != nil {
		return nil, err
	}
	return pki.SignCSR(ca, r.Spec.Request, r.Spec.Usages, now, ttl)
}

func (c *Controller) write(ctx context.Context, m *certificatesv1.CertificateSigningRequest, sub string) error {
	got, err := client.CertificateSigningRequests.In(c.env.Client, "").Update(ctx, m, client.Sub(sub))
	if err != nil {
		return fmt.Errorf("updating %s of the request: %w", sub, err)
	}
	c.writes.Wrote(m.Name, got)
	return nil
}
