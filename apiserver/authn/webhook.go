package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/memo"
)

// WebhookConfig says whom a Webhook asks.
type WebhookConfig struct {
	Target *callout.Target
	// Version of authentication.k8s.io/TokenReview: v1 or v1beta1.
	Version string
	// TTL is how long an answer is remembered; 0 asks for every request.
	TTL time.Duration
	// Audiences are the API server's own.
	Audiences []string
	Now       func() time.Time
	Retry     callout.Retry
}

// Webhook knows the tokens that a server outside the cluster knows ("Webhook
// Token Authentication" in the documentation). Tokens that this server is the
// wrong one for reach it too, so it must be one that is trusted with them.
type Webhook struct {
	cfg    WebhookConfig
	secret [sha256.Size]byte // so that what is remembered cannot be guessed or aimed at
	seen   *memo.Memo[[sha256.Size]byte, webhookVerdict]
	asking singleflight.Group
}

type webhookVerdict struct {
	res   *TokenResult // nil: not known
	why   string
	until time.Time
}

// NewWebhook makes an authenticator. The error is that of the version.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	if cfg.Version != "v1" && cfg.Version != "v1beta1" {
		return nil, fmt.Errorf("version %q of TokenReview is unknown, want v1 or v1beta1", cfg.Version)
	}
	w := &Webhook{cfg: cfg, seen: memo.New[[sha256.Size]byte, webhookVerdict](4096)}
	_, err := rand.Read(w.secret[:])
	return w, err
}

// AuthenticateToken implements TokenAuthenticator. That the server cannot be
// asked is an error, and not remembered.
func (w *Webhook) AuthenticateToken(ctx context.Context, token string, audiences []string) (*TokenResult, bool, error) {
	asked := audiences
	if len(asked) == 0 {
		asked = w.cfg.Audiences
	}
	sum := w.sum(token, asked)
	v, ok := w.seen.Get(sum)
	if !ok || !w.cfg.Now().Before(v.until) {
		// The same token is asked about once at a time. Who waits with the
		// first must not fail because that one's request was given up.
		shared := context.WithoutCancel(ctx)
		got := w.asking.DoChan(string(sum[:]), func() (any, error) {
			ctx, cancel := context.WithTimeout(shared, 30*time.Second)
			defer cancel()
			v, err := w.ask(ctx, token, asked)
			if err == nil && w.cfg.TTL > 0 {
				v.until = w.cfg.Now().Add(w.cfg.TTL)
				w.seen.Put(sum, v)
			}
			return v, err
		})
		select {
		case r := <-got:
			if r.Err != nil {
				return nil, false, r.Err
			}
			v = r.Val.(webhookVerdict)
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	if v.res == nil {
		if v.why != "" {
			return nil, false, errors.New(v.why)
		}
		return nil, false, nil
	}
	return v.res, true, nil
}

func (w *Webhook) sum(token string, audiences []string) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, w.secret[:])
	for _, s := range append([]string{token}, audiences...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	h.Sum(sum[:0])
	return sum
}

func (w *Webhook) ask(ctx context.Context, token string, audiences []string) (webhookVerdict, error) {
	question := &authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.GroupName + "/" + w.cfg.Version, Kind: "TokenReview"},
		Spec:     authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
	}
	var answer authenticationv1.TokenReview
	if err := w.cfg.Target.Ask(ctx, question, &answer, w.cfg.Retry); err != nil {
		return webhookVerdict{}, fmt.Errorf("ask the token webhook: %w", err)
	}
	return w.verdict(&answer.Status, audiences)
}

// verdict is what an answer says of a token for some of the audiences.
func (w *Webhook) verdict(st *authenticationv1.TokenReviewStatus, audiences []string) (webhookVerdict, error) {
	if !st.Authenticated {
		return webhookVerdict{why: st.Error}, nil
	}
	if st.User.Username == "" {
		return webhookVerdict{}, errors.New("the token webhook names no user")
	}
	// A server that does not know audiences speaks of the API server's.
	auds := audiences
	if len(st.Audiences) > 0 {
		auds = intersect(audiences, st.Audiences)
	} else if len(w.cfg.Audiences) > 0 {
		auds = intersect(audiences, w.cfg.Audiences)
	}
	if len(audiences) > 0 && len(auds) == 0 {
		return webhookVerdict{}, nil
	}
	u := client.User{Name: st.User.Username, UID: st.User.UID, Groups: slices.Clone(st.User.Groups)}
	if len(st.User.Extra) > 0 {
		u.Extra = make(map[string][]string, len(st.User.Extra))
		for k, v := range st.User.Extra {
			u.Extra[k] = v
		}
	}
	return webhookVerdict{res: &TokenResult{User: u, Audiences: auds}}, nil
}
