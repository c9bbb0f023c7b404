package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/memo"
)

// Keys of a service account's user.Extra.
const (
	ExtraPodName  = "authentication.kubernetes.io/pod-name"
	ExtraPodUID   = "authentication.kubernetes.io/pod-uid"
	ExtraNodeName = "authentication.kubernetes.io/node-name"
	ExtraNodeUID  = "authentication.kubernetes.io/node-uid"
)

// deletionLeeway is how long the tokens of an object that is being deleted
// live on, so that a pod can end in good order.
const deletionLeeway = 60 * time.Second

// ServiceAccounts knows the bound tokens of service accounts: signature,
// times and audience, and that the account and the object which the token is
// bound to are still there.
type ServiceAccounts struct {
	issuer    *satoken.Issuer
	audiences []string
	door      client.Interface
	now       func() time.Time
	verified  *memo.Memo[[sha256.Size]byte, *satoken.Claims]
	counts    *AccountCounts
}

// NewServiceAccounts makes an authenticator that reads through door, which
// needs the right to get service accounts, secrets, pods and nodes. audiences
// are the API server's own.
func NewServiceAccounts(issuer *satoken.Issuer, audiences []string, door client.Interface, now func() time.Time) *ServiceAccounts {
	return &ServiceAccounts{issuer, audiences, door, now, memo.New[[sha256.Size]byte, *satoken.Claims](4096), nil}
}

// Counted has the uses of tokens counted, and returns s. Call it before those
// are seen.
func (s *ServiceAccounts) Counted(by *AccountCounts) *ServiceAccounts {
	s.counts = by
	return s
}

// AuthenticateToken implements TokenAuthenticator. A signature is verified
// once; times and objects are looked at for every request, since they are
// what changes.
func (s *ServiceAccounts) AuthenticateToken(ctx context.Context, token string, audiences []string) (*TokenResult, bool, error) {
	sum := sha256.Sum256([]byte(token))
	claims, ok := s.verified.Get(sum)
	if !ok {
		var err error
		claims, err = s.issuer.Verify(token)
		if errors.Is(err, satoken.ErrForeign) {
			return s.legacy(ctx, token, audiences)
		}
		if err != nil {
			return nil, false, err
		}
		s.verified.Put(sum, claims)
	}
	auds, err := s.meant(claims.Audience, audiences)
	if err != nil {
		return nil, false, err
	}
	if err := claims.Valid(s.now()); err != nil {
		return nil, false, err
	}
	if err := s.alive(ctx, &claims.Kubernetes); err != nil {
		return nil, false, err
	}
	u := serviceAccountUser(claims)
	if warn := claims.Kubernetes.WarnAfter; warn != 0 {
		late := s.now().Unix() - warn
		s.counts.projected(late > 0)
		if late > 0 {
			note(ctx, noteStale, fmt.Sprintf("subject: %s, seconds after warning threshold: %d", u.Name, late))
		}
	}
	return &TokenResult{User: u, Audiences: auds}, true, nil
}

// meant are the audiences that were asked about (none: the API server's own) of
// those of a token, which is for the API server if it names none.
func (s *ServiceAccounts) meant(of, asked []string) ([]string, error) {
	if len(of) == 0 {
		of = s.audiences
	}
	if len(asked) == 0 {
		asked = s.audiences
	}
	auds := intersect(of, asked)
	if len(auds) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", of, asked)
	}
	return auds, nil
}

// errInvalidated is all that is said of a token whose object is gone.
var errInvalidated = errors.New("service account token has been invalidated")

func (s *ServiceAccounts) alive(ctx context.Context, k *satoken.Private) error {
	if err := s.account(ctx, k.Namespace, &k.ServiceAccount, "service account"); err != nil {
		return err
	}
	if k.Secret != nil {
		if err := stillThere(ctx, s, client.Secrets.In(s.door, k.Namespace), "secret", k.Secret); err != nil {
			return err
		}
	}
	if k.Pod != nil {
		// The node claim of a pod's token tells where it ran; it binds nothing.
		return stillThere(ctx, s, client.Pods.In(s.door, k.Namespace), "pod", k.Pod)
	}
	if k.Node != nil {
		return stillThere(ctx, s, client.Nodes.In(s.door, ""), "node", k.Node)
	}
	return nil
}

// account checks that the service account of a token is there; it is called what
// in errors, whose words are upstream's.
func (s *ServiceAccounts) account(ctx context.Context, namespace string, ref *satoken.Ref, what string) error {
	switch {
	case ref.Name == "":
		return errors.New("resource name may not be empty")
	case namespace == "":
		return errors.New("the server could not find the requested resource")
	}
	obj, err := live(ctx, client.ServiceAccounts.In(s.door, namespace), ref.Name, func(o *corev1.ServiceAccount) bool { return string(o.UID) == ref.UID })
	switch {
	case err != nil:
		return err
	case s.going(obj):
		return fmt.Errorf("%s %s/%s has been deleted", what, namespace, ref.Name)
	case string(obj.UID) != ref.UID:
		return fmt.Errorf("%s UID (%s) does not match claim (%s)", what, obj.UID, ref.UID)
	}
	return nil
}

// going says that an object has been deleted long enough ago.
func (s *ServiceAccounts) going(o client.Object) bool {
	d := o.GetDeletionTimestamp()
	return d != nil && d.Add(deletionLeeway).Before(s.now())
}

func stillThere[T client.Object](ctx context.Context, s *ServiceAccounts, in client.Resource[T], what string, ref *satoken.Ref) error {
	obj, err := live(ctx, in, ref.Name, func(o T) bool { return string(o.GetUID()) == ref.UID })
	switch {
	case apierrors.IsNotFound(err):
		return errInvalidated
	case err != nil:
		return fmt.Errorf("look up the %s of a service account token: %w", what, err)
	case s.going(obj):
		return errInvalidated
	case string(obj.GetUID()) != ref.UID:
		return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", what, obj.GetUID(), what, ref.UID)
	}
	return nil
}

// live reads an object from what is at hand, which costs next to nothing, and
// asks for the newest state only if that is not what is wanted: a token can
// be used the moment it is made.
func live[T client.Object](ctx context.Context, in client.Resource[T], name string, good func(T) bool) (T, error) {
	obj, err := in.Get(ctx, name, client.WithOptions(client.Options{ResourceVersion: "0"}))
	if err == nil && good(obj) {
		return obj, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return obj, err
	}
	return in.Get(ctx, name)
}

func serviceAccountUser(c *satoken.Claims) client.User {
	k := &c.Kubernetes
	u := client.ServiceAccountUser(k.Namespace, k.ServiceAccount.Name)
	u.Groups = slices.DeleteFunc(u.Groups, func(g string) bool { return g == GroupAuthenticated }) // Union adds it
	u.UID = k.ServiceAccount.UID
	u.Extra = map[string][]string{}
	if c.ID != "" {
		u.Extra[ExtraCredentialID] = []string{"JTI=" + c.ID}
	}
	if k.Pod != nil {
		u.Extra[ExtraPodName], u.Extra[ExtraPodUID] = []string{k.Pod.Name}, []string{k.Pod.UID}
	}
	if k.Node != nil {
		u.Extra[ExtraNodeName] = []string{k.Node.Name}
		if k.Node.UID != "" {
			u.Extra[ExtraNodeUID] = []string{k.Node.UID}
		}
	}
	return u
}
