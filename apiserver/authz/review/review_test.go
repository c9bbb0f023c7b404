package review

import (
	"context"
	"errors"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// ask remembers what it was asked and allows reading pods.
type ask struct{ got authz.Attributes }

func (a *ask) Authorize(_ context.Context, at *authz.Attributes) (authz.Decision, string, error) {
	a.got = *at
	switch {
	case at.Verb == "explode":
		return authz.NoOpinion, "", errors.New("boom")
	case at.Verb == "never":
		return authz.Deny, "never", nil
	case at.Verb == "get" && (at.Resource == "pods" || at.Path == "/healthz"):
		return authz.Allow, "because", nil
	}
	return authz.NoOpinion, "", nil
}

type res = authorizationv1.ResourceAttributes

func TestReviews(t *testing.T) {
	a := &ask{}
	actions := Actions(a)
	me := client.User{Name: "me", Groups: []string{"g"}}
	sar := func(spec authorizationv1.SubjectAccessReviewSpec) runtime.Object {
		return &authorizationv1.SubjectAccessReview{Spec: spec}
	}
	local := func(ns string, spec authorizationv1.SubjectAccessReviewSpec) runtime.Object {
		return &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: ns}, Spec: spec}
	}
	self := func(r *res, p *authorizationv1.NonResourceAttributes) runtime.Object {
		return &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: r, NonResourceAttributes: p}}
	}
	pods, path := &res{Verb: "get", Resource: "pods", Namespace: "ns", Name: "p"}, &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/healthz"}
	for name, tc := range map[string]struct {
		action  string
		body    runtime.Object
		user    string // who is asked about
		allowed bool
	}{
		"self":              {"selfsubjectaccessreviews", self(pods, nil), "me", true},
		"self, path":        {"selfsubjectaccessreviews", self(nil, path), "me", true},
		"self, not allowed": {"selfsubjectaccessreviews", self(&res{Verb: "delete", Resource: "pods"}, nil), "me", false},
		"another":           {"subjectaccessreviews", sar(authorizationv1.SubjectAccessReviewSpec{User: "you", ResourceAttributes: pods, Extra: map[string]authorizationv1.ExtraValue{"k": {"v"}}}), "you", true},
		"local":             {"localsubjectaccessreviews", local("ns", authorizationv1.SubjectAccessReviewSpec{User: "you", ResourceAttributes: pods}), "you", true},
	} {
		a.got = authz.Attributes{}
		out, err := actions[tc.action+".authorization.k8s.io"](context.Background(), &client.Request{User: me, Namespace: "ns", Object: tc.body})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var st authorizationv1.SubjectAccessReviewStatus
		switch o := out.Object.(type) {
		case *authorizationv1.SelfSubjectAccessReview:
			st = o.Status
		case *authorizationv1.SubjectAccessReview:
			st = o.Status
		case *authorizationv1.LocalSubjectAccessReview:
			st = o.Status
		}
		if a.got.Resource != "" && a.got.Version != "*" {
			t.Errorf("%s: asked about version %q, want all", name, a.got.Version)
		}
		if st.Allowed != tc.allowed || a.got.User.Name != tc.user || (st.Reason == "because") != tc.allowed {
			t.Errorf("%s: %+v, asked about %+v", name, st, a.got)
		}
	}
	out, _ := actions["selfsubjectaccessreviews.authorization.k8s.io"](context.Background(), &client.Request{User: me, Object: self(&res{Verb: "explode", Resource: "x"}, nil)})
	if st := out.Object.(*authorizationv1.SelfSubjectAccessReview).Status; st.Allowed || st.EvaluationError != "boom" {
		t.Errorf("got %+v", st)
	}
	out, _ = actions["selfsubjectaccessreviews.authorization.k8s.io"](context.Background(), &client.Request{User: me, Object: self(&res{Verb: "never", Resource: "x"}, nil)})
	if st := out.Object.(*authorizationv1.SelfSubjectAccessReview).Status; st.Allowed || !st.Denied {
		t.Errorf("got %+v", st)
	}
}

func TestSelectors(t *testing.T) {
	a := &ask{}
	r := &res{Verb: "list", Resource: "pods",
		FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"n1"}}}},
		LabelSelector: &authorizationv1.LabelSelectorAttributes{RawSelector: "a in (b,c),!d"}}
	st := reviewer{a}.decide(context.Background(), client.User{}, r, nil)
	if st.EvaluationError != "" || a.got.FieldSelector.String() != "spec.nodeName=n1" || a.got.LabelSelector.String() != "a in (b,c),!d" {
		t.Errorf("%+v %v %v", st, a.got.FieldSelector, a.got.LabelSelector)
	}
	r.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: "a,b"}
	r.LabelSelector = &authorizationv1.LabelSelectorAttributes{Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like", Values: []string{"x"}}}}
	st = reviewer{a}.decide(context.Background(), client.User{}, r, nil)
	if !strings.Contains(st.EvaluationError, "fieldSelector") || !strings.Contains(st.EvaluationError, "labelSelector") || a.got.FieldSelector != nil || a.got.LabelSelector != nil {
		t.Errorf("unreadable selectors: %+v, asked with %v %v", st, a.got.FieldSelector, a.got.LabelSelector)
	}
}

// masterRules names the rules of the group system:masters.
type masterRules struct{ authz.Authorizer }

func (masterRules) RulesFor(_ context.Context, u client.User, _ string) ([]authz.ResourceRule, []authz.NonResourceRule, bool, error) {
	if len(u.Groups) == 0 {
		return nil, nil, false, nil
	}
	all := []string{"*"}
	return []authz.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}, []authz.NonResourceRule{{Verbs: all, Paths: all}}, false, nil
}

func TestRules(t *testing.T) {
	actions := Actions(authz.Union(authz.Masters(), masterRules{}))
	do := func(u client.User, ns string) (*authorizationv1.SelfSubjectRulesReview, error) {
		out, err := actions["selfsubjectrulesreviews.authorization.k8s.io"](context.Background(), &client.Request{User: u,
			Object: &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}})
		if err != nil {
			return nil, err
		}
		return out.Object.(*authorizationv1.SelfSubjectRulesReview), nil
	}
	if _, err := do(client.User{}, ""); !apierrors.IsBadRequest(err) {
		t.Errorf("got %v", err)
	}
	got, err := do(client.User{Groups: []string{"system:masters"}}, "ns")
	if err != nil || len(got.Status.ResourceRules) != 1 || len(got.Status.NonResourceRules) != 1 || got.Status.Incomplete || got.Spec.Namespace != "" {
		t.Errorf("got %+v %v", got, err)
	}
	got, err = do(client.User{Name: "x"}, "ns")
	if err != nil || got.Status.ResourceRules == nil || len(got.Status.ResourceRules) != 0 {
		t.Errorf("got %+v %v", got, err)
	}
}
