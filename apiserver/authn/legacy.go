package authn

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/apiserver/authn/satoken"
	"github.com/coxswain/cox/client"
)

// Labels of secrets with tokens (KEP-2799): when the token was last used, and
// since when it is not to be any more.
const (
	labelLastUsed = "kubernetes.io/legacy-token-last-used"
	labelInvalid  = "kubernetes.io/legacy-token-invalid-since"
)

// legacy knows the tokens in secrets. The signature is verified for every
// request, since such tokens are rare; the secret must hold the very token.
func (s *ServiceAccounts) legacy(ctx context.Context, token string, audiences []string) (*TokenResult, bool, error) {
	claims, err := s.issuer.VerifyLegacy(token)
	if errors.Is(err, satoken.ErrForeign) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	auds, err := s.meant(nil, audiences)
	if err == nil {
		err = claims.Check()
	}
	if err != nil {
		return nil, false, err
	}
	secrets := client.Secrets.In(s.door, claims.Namespace)
	secret, err := live(ctx, secrets, claims.Secret, func(o *corev1.Secret) bool { return holds(o, token) })
	switch {
	case apierrors.IsNotFound(err):
		return nil, false, errors.New("Token has been invalidated")
	case err != nil:
		return nil, false, fmt.Errorf("look up the secret of a service account token: %w", err)
	case secret.DeletionTimestamp != nil:
		return nil, false, errors.New("Token has been invalidated")
	case !holds(secret, token):
		return nil, false, errors.New("Token does not match server's copy")
	}
	if err := s.account(ctx, claims.Namespace, &satoken.Ref{Name: claims.Account, UID: claims.UID}, "ServiceAccount"); err != nil {
		return nil, false, err
	}
	if secret.Labels[labelInvalid] != "" {
		return nil, false, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, "+
			"or remove the '%s' label from the secret to temporarily allow use of this token", claims.Namespace, claims.Secret, claims.Namespace, claims.Account, labelInvalid)
	}
	s.used(ctx, secrets, secret)
	u := serviceAccountUser(&satoken.Claims{Kubernetes: satoken.Private{
		Namespace: claims.Namespace, ServiceAccount: satoken.Ref{Name: claims.Account, UID: claims.UID},
	}})
	u.Extra = nil
	note(ctx, noteLegacy, u.Name)
	s.counts.fromSecret()
	return &TokenResult{User: u, Audiences: auds}, true, nil
}

func holds(s *corev1.Secret, token string) bool {
	return s.Type == corev1.SecretTypeServiceAccountToken && subtle.ConstantTimeCompare(s.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 1
}

// used notes the day on the secret, so that tokens which nobody needs can be
// found. That it cannot be noted is no reason to refuse the user.
func (s *ServiceAccounts) used(ctx context.Context, in client.Resource[*corev1.Secret], secret *corev1.Secret) {
	today := s.now().UTC().Format(time.DateOnly)
	if secret.Labels[labelLastUsed] == today {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": secret.UID, "labels": map[string]string{labelLastUsed: today}}})
	if err == nil {
		_, _ = in.Patch(context.WithoutCancel(ctx), secret.Name, types.MergePatchType, patch)
	}
}
