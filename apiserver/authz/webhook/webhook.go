// Package webhook asks a server outside the cluster whether a user may make a
// request: attributes go out as a SubjectAccessReview, its decision comes in
// ("Webhook Mode" and KEP-3221).
package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"
	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/apiserver/callout"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/internal/memo"
)

// Config says whom to ask, about what, and what holds when there is no answer.
type Config struct {
	Name   string
	Target *callout.Target
	// Version of authorization.k8s.io/SubjectAccessReview: v1 or v1beta1.
	Version string
	// AuthorizedTTL and UnauthorizedTTL are how long an answer is remembered
	// that allows, or does not; 0 is not at all.
	AuthorizedTTL, UnauthorizedTTL time.Duration
	// Timeout bounds a question with all its repetitions.
	Timeout time.Duration
	// Deny refuses what the server could not be asked about; otherwise the
	// next authorizer is asked.
	Deny bool
	// Conditions must all hold of a request that the server is asked about;
	// see Conditions.
	Conditions []*expression.Program
	Retry      callout.Retry
	Now        func() time.Time
}

// Authorizer is an authz.Authorizer.
type Authorizer struct {
	cfg    Config
	seen   *memo.Memo[[sha256.Size]byte, verdict]
	asking singleflight.Group
}

type verdict struct {
	decision authz.Decision
	reason   string
	until    time.Time
}

// maxRemembered bounds the questions that are remembered, in bytes: users
// choose names and paths.
const maxRemembered = 10000

// New makes an authorizer.
func New(cfg Config) *Authorizer {
	return &Authorizer{cfg: cfg, seen: memo.New[[sha256.Size]byte, verdict](8192)}
}

// Authorize implements authz.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, attrs *authz.Attributes) (authz.Decision, string, error) {
	spec := review(attrs)
	switch asked, err := a.concerned(ctx, spec); {
	case err != nil:
		return a.failed(fmt.Errorf("match conditions of authorization webhook %s: %w", a.cfg.Name, err))
	case !asked:
		return authz.NoOpinion, "", nil
	}
	key, err := json.Marshal(spec)
	if err != nil {
		return a.failed(err)
	}
	sum := sha256.Sum256(key)
	if v, ok := a.seen.Get(sum); ok && a.cfg.Now().Before(v.until) {
		return v.decision, v.reason, nil
	}
	shared := context.WithoutCancel(ctx) // who waits must not fail with the first
	got := a.asking.DoChan(string(sum[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(shared, a.cfg.Timeout)
		defer cancel()
		v, err := a.ask(ctx, spec)
		ttl := a.cfg.UnauthorizedTTL
		if v.decision == authz.Allow {
			ttl = a.cfg.AuthorizedTTL
		}
		if err == nil && ttl > 0 && len(key) <= maxRemembered {
			v.until = a.cfg.Now().Add(ttl)
			a.seen.Put(sum, v)
		}
		return v, err
	})
	select {
	case r := <-got:
		if r.Err != nil {
			return a.failed(fmt.Errorf("authorization webhook %s: %w", a.cfg.Name, r.Err))
		}
		v := r.Val.(verdict)
		return v.decision, v.reason, nil
	case <-ctx.Done():
		return a.failed(ctx.Err())
	}
}

// failed is the decision without an answer.
func (a *Authorizer) failed(err error) (authz.Decision, string, error) {
	if a.cfg.Deny {
		return authz.Deny, "", err
	}
	return authz.NoOpinion, "", err
}

func (a *Authorizer) ask(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec) (verdict, error) {
	head := metav1.TypeMeta{APIVersion: authorizationv1.GroupName + "/" + a.cfg.Version, Kind: "SubjectAccessReview"}
	var question any = &authorizationv1.SubjectAccessReview{TypeMeta: head, Spec: *spec}
	if a.cfg.Version == "v1beta1" {
		question = &authorizationv1beta1.SubjectAccessReview{TypeMeta: head, Spec: older(spec)}
	}
	var answer struct {
		Status *authorizationv1.SubjectAccessReviewStatus `json:"status"`
	}
	if err := a.cfg.Target.Ask(ctx, question, &answer, a.cfg.Retry); err != nil {
		return verdict{}, err
	}
	return decide(answer.Status)
}

// decide is what an answer says; nil is one that says nothing.
func decide(st *authorizationv1.SubjectAccessReviewStatus) (verdict, error) {
	switch {
	case st == nil:
		return verdict{}, errors.New("the answer has no status")
	case st.Denied && st.Allowed:
		return verdict{}, errors.New("the answer both allows and denies")
	case st.Denied:
		return verdict{decision: authz.Deny, reason: st.Reason}, nil
	case st.Allowed:
		return verdict{decision: authz.Allow, reason: st.Reason}, nil
	default:
		return verdict{reason: st.Reason}, nil
	}
}

// RulesFor implements authz.RuleResolver: a webhook decides, it lists nothing.
func (a *Authorizer) RulesFor(context.Context, client.User, string) ([]authz.ResourceRule, []authz.NonResourceRule, bool, error) {
	return nil, nil, true, errors.New("webhook authorizer does not support user rule resolution")
}
