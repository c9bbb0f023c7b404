// Package tokens answers what the API says about tokens: TokenRequest makes
// them, TokenReview judges them, and the discovery documents let others judge
// the cluster's.
package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/authn"
	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
)

// Config is what the actions need.
type Config struct {
	Issuer *satoken.Issuer
	// Audiences are the API server's own; a token gets them when none are
	// asked for.
	Audiences []string
	// MaxLifetime caps the life of tokens; 0 leaves it as asked.
	MaxLifetime time.Duration
	// NoExtension switches off that kubelets' tokens of 3607 s live a year
	// (upstream's --service-account-extend-token-expiration).
	NoExtension bool
	// Door reads service accounts, pods, secrets and nodes.
	Door client.Interface
	// Tokens judges for TokenReview.
	Tokens authn.TokenAuthenticator
	Now    func() time.Time
}

// Actions returns the actions by their name in apiserver.Extensions.
func Actions(c Config) map[string]apiserver.ActionFunc {
	return map[string]apiserver.ActionFunc{
		"serviceaccounts/token":                    c.request,
		"tokenreviews.authentication.k8s.io":       c.review,
		"selfsubjectreviews.authentication.k8s.io": selfSubjectReview,
	}
}

const (
	minLifetime = 10 * time.Minute
	maxLifetime = 1 << 32 // seconds
	// A kubelet asks for this odd lifetime for the volume that every pod gets
	// by default. Such a token lives a year, for clients that do not read the
	// file again, and warns after the time asked for.
	kubeletLifetime  = 3607
	extendedLifetime = 365 * 24 * time.Hour
)

// issuedCredential is the annotation of the audit record of an issued token
// that says which one it was.
const issuedCredential = "authentication.kubernetes.io/issued-credential-id"

var gvkTokenRequest = schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}

// request carries out a TokenRequest (the API's "serviceaccounts/token").
func (c Config) request(ctx context.Context, req *client.Request) (*client.Result, error) {
	in, ok := req.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a TokenRequest, got %T", req.Object))
	}
	if in.Name != "" && in.Name != req.Name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", in.Name, req.Name))
	}
	if in.Namespace != "" && in.Namespace != req.Namespace {
		return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if len(in.Spec.Audiences) == 0 {
		in.Spec.Audiences = slices.Clone(c.Audiences)
	}
	if in.Spec.ExpirationSeconds == nil {
		in.Spec.ExpirationSeconds = new(int64(time.Hour / time.Second))
	}
	if errs := validate(in); len(errs) > 0 {
		return nil, apierrors.NewInvalid(gvkTokenRequest.GroupKind(), "", errs)
	}
	sa, err := client.ServiceAccounts.In(c.Door, req.Namespace).Get(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if in.UID != "" && in.UID != sa.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: gvkTokenRequest.Group, Resource: gvkTokenRequest.Kind}, req.Name, fmt.Errorf(
			"the UID in the token request (%s) does not match the UID of the service account (%s)", in.UID, sa.UID))
	}
	private := satoken.Private{Namespace: sa.Namespace, ServiceAccount: satoken.Ref{Name: sa.Name, UID: string(sa.UID)}}
	if in.Spec.BoundObjectRef != nil {
		if err := c.bind(ctx, in.Spec.BoundObjectRef, &private); err != nil {
			return nil, err
		}
	}
	lifetime := time.Duration(*in.Spec.ExpirationSeconds) * time.Second
	if c.MaxLifetime > 0 && lifetime > c.MaxLifetime {
		lifetime = c.MaxLifetime
		in.Spec.ExpirationSeconds = new(int64(lifetime / time.Second))
	}
	now := c.Now()
	claims := satoken.Claims{
		Audience: in.Spec.Audiences, ID: string(uuid.NewUUID()),
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: now.Add(lifetime).Unix(), Kubernetes: private,
	}
	if !c.NoExtension && private.Pod != nil && *in.Spec.ExpirationSeconds == kubeletLifetime && sameSet(in.Spec.Audiences, c.Audiences) {
		claims.Kubernetes.WarnAfter = claims.Expiry
		claims.Expiry = now.Add(extendedLifetime).Unix()
	}
	token, err := c.Issuer.Sign(claims)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	out := &authenticationv1.TokenRequest{
		ObjectMeta: in.ObjectMeta, Spec: in.Spec,
		Status: authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(lifetime))},
	}
	out.Name, out.Namespace, out.UID, out.CreationTimestamp = req.Name, req.Namespace, uuid.NewUUID(), metav1.NewTime(now)
	return &client.Result{Object: out, Created: true, Notes: map[string]string{issuedCredential: "JTI=" + claims.ID}}, nil
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func validate(in *authenticationv1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec").Child("expirationSeconds")
	switch s := *in.Spec.ExpirationSeconds; {
	case s < int64(minLifetime/time.Second):
		errs = append(errs, field.Invalid(path, s, "may not specify a duration less than 10 minutes"))
	case s > maxLifetime:
		errs = append(errs, field.Invalid(path, s, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// bind looks the object up that the token is to be bound to.
func (c Config) bind(ctx context.Context, ref *authenticationv1.BoundObjectReference, p *satoken.Private) error {
	var uid types.UID
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch gvk.GroupKind() { // of any version
	case schema.GroupKind{Kind: "Pod"}:
		pod, err := client.Pods.In(c.Door, p.Namespace).Get(ctx, ref.Name)
		if err != nil {
			return err
		}
		name := pod.Spec.ServiceAccountName
		if name != p.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", p.ServiceAccount.Name))
		}
		uid = pod.UID
		p.Pod = &satoken.Ref{Name: pod.Name, UID: string(pod.UID)}
		if pod.Spec.NodeName != "" {
			if p.Node, err = c.nodeOf(ctx, pod); err != nil {
				return err
			}
		}
	case schema.GroupKind{Kind: "Secret"}:
		s, err := client.Secrets.In(c.Door, p.Namespace).Get(ctx, ref.Name)
		if err != nil {
			return err
		}
		uid = s.UID
		p.Secret = &satoken.Ref{Name: s.Name, UID: string(s.UID)}
	case schema.GroupKind{Kind: "Node"}:
		n, err := client.Nodes.In(c.Door, "").Get(ctx, ref.Name)
		if err != nil {
			return err
		}
		uid = n.UID
		p.Node = &satoken.Ref{Name: n.Name, UID: string(n.UID)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Resource: gvk.Kind}, ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// nodeOf names the node of a pod; a node that is gone is named without UID.
func (c Config) nodeOf(ctx context.Context, pod *corev1.Pod) (*satoken.Ref, error) {
	n, err := client.Nodes.In(c.Door, "").Get(ctx, pod.Spec.NodeName, client.WithOptions(client.Options{ResourceVersion: "0"}))
	switch {
	case apierrors.IsNotFound(err):
		return &satoken.Ref{Name: pod.Spec.NodeName}, nil
	case err != nil:
		return nil, err
	}
	return &satoken.Ref{Name: n.Name, UID: string(n.UID)}, nil
}

// review carries out a TokenReview.
func (c Config) review(ctx context.Context, req *client.Request) (*client.Result, error) {
	in, ok := req.Object.(*authenticationv1.TokenReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenReview: %T", req.Object))
	}
	if in.Namespace != "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", in.Namespace))
	}
	if in.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	in.Status = authenticationv1.TokenReviewStatus{Error: in.Status.Error} // a good token leaves it as it came, as with upstream
	res, known, err := c.Tokens.AuthenticateToken(ctx, in.Spec.Token, in.Spec.Audiences)
	switch {
	case err != nil:
		in.Status.Error = utilerrors.NewAggregate([]error{authn.ErrInvalidToken, err}).Error()
	case known:
		in.Status.Authenticated = true
		in.Status.User = UserInfo(res.User)
		in.Status.Audiences = res.Audiences
	default:
		in.Status.Error = authn.ErrInvalidToken.Error()
	}
	return &client.Result{Object: in, Created: true}, nil
}

// UserInfo is a user in the API's form. It shares the slices of u.
func UserInfo(u client.User) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	if len(u.Extra) > 0 {
		out.Extra = make(map[string]authenticationv1.ExtraValue, len(u.Extra))
		for k, v := range u.Extra {
			out.Extra[k] = v
		}
	}
	return out
}

// selfSubjectReview tells users who they are (kubectl auth whoami).
func selfSubjectReview(_ context.Context, req *client.Request) (*client.Result, error) {
	if _, ok := req.Object.(*authenticationv1.SelfSubjectReview); !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectReview: %T", req.Object))
	}
	out := &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: UserInfo(req.User)}}
	out.CreationTimestamp = metav1.Now()
	return &client.Result{Object: out, Created: true}, nil
}

// Handlers serves the OpenID discovery documents of the issuer at
// /.well-known/openid-configuration and /openid/v1/jwks. jwksURL is the
// address of the key set as others reach it; "" is the issuer's own.
func Handlers(issuer *satoken.Issuer, jwksURL string) (map[string]http.Handler, error) {
	if jwksURL == "" {
		jwksURL = issuer.URL() + "/openid/v1/jwks"
	}
	keys, err := issuer.JWKS()
	if err != nil {
		return nil, fmt.Errorf("encode the service-account keys: %w", err)
	}
	config, err := json.Marshal(struct {
		Issuer     string   `json:"issuer"`
		JWKS       string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{issuer.URL(), jwksURL, []string{"id_token"}, []string{"public"}, issuer.Algorithms()})
	if err != nil {
		return nil, fmt.Errorf("encode the OpenID configuration: %w", err)
	}
	return map[string]http.Handler{
		"/.well-known/openid-configuration": document("application/json", config),
		"/openid/v1/jwks":                   document("application/jwk-set+json", keys),
	}, nil
}

func document(mediaType string, data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			wire.Fail(w, r, apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false))
			return
		}
		if !wire.Routed(r.Header.Get("Accept"), mediaType) {
			wire.Fail(w, r, wire.Unrouted([]string{mediaType}))
			return
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(data) // the client has gone: nothing to be done
	})
}
