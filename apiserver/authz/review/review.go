// Package review answers the API's questions about authorization: a
// SubjectAccessReview or one of its kin goes in, the authorizer's decision
// comes out.
package review

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// Actions returns the actions by their name in apiserver.Extensions. auth
// answers SelfSubjectRulesReview as far as it is a RuleResolver.
func Actions(auth authz.Authorizer) map[string]apiserver.ActionFunc {
	r := reviewer{auth}
	const group = ".authorization.k8s.io"
	return map[string]apiserver.ActionFunc{
		"subjectaccessreviews" + group:      r.subject,
		"localsubjectaccessreviews" + group: r.local,
		"selfsubjectaccessreviews" + group:  r.self,
		"selfsubjectrulesreviews" + group:   r.rules,
	}
}

type reviewer struct{ auth authz.Authorizer }

func (r reviewer) subject(ctx context.Context, req *client.Request) (*client.Result, error) {
	in, err := body[*authorizationv1.SubjectAccessReview](req)
	if err != nil {
		return nil, err
	}
	in.Status = r.decide(ctx, specUser(&in.Spec), in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
	return &client.Result{Object: in, Created: true}, nil
}

func (r reviewer) local(ctx context.Context, req *client.Request) (*client.Result, error) {
	in, err := body[*authorizationv1.LocalSubjectAccessReview](req)
	if err != nil {
		return nil, err
	}
	if in.Namespace != req.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", req.Namespace))
	}
	in.Status = r.decide(ctx, specUser(&in.Spec), in.Spec.ResourceAttributes, nil)
	return &client.Result{Object: in, Created: true}, nil
}

func (r reviewer) self(ctx context.Context, req *client.Request) (*client.Result, error) {
	in, err := body[*authorizationv1.SelfSubjectAccessReview](req)
	if err != nil {
		return nil, err
	}
	in.Status = r.decide(ctx, req.User, in.Spec.ResourceAttributes, in.Spec.NonResourceAttributes)
	return &client.Result{Object: in, Created: true}, nil
}

func (r reviewer) rules(ctx context.Context, req *client.Request) (*client.Result, error) {
	in, err := body[*authorizationv1.SelfSubjectRulesReview](req)
	if err != nil {
		return nil, err
	}
	if in.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	out := &authorizationv1.SelfSubjectRulesReview{Status: authorizationv1.SubjectRulesReviewStatus{ // the question is not repeated
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}}
	resolver, ok := r.auth.(authz.RuleResolver)
	if !ok {
		out.Status.Incomplete, out.Status.EvaluationError = true, "the authorizer cannot list rules"
		return &client.Result{Object: out, Created: true}, nil
	}
	res, paths, incomplete, err := resolver.RulesFor(ctx, req.User, in.Spec.Namespace)
	for _, x := range res {
		out.Status.ResourceRules = append(out.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: x.Verbs, APIGroups: x.APIGroups, Resources: x.Resources, ResourceNames: x.ResourceNames})
	}
	for _, x := range paths {
		out.Status.NonResourceRules = append(out.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: x.Verbs, NonResourceURLs: x.Paths})
	}
	out.Status.Incomplete = incomplete
	if err != nil {
		out.Status.EvaluationError = err.Error()
	}
	return &client.Result{Object: out, Created: true}, nil
}

func body[T runtime.Object](req *client.Request) (T, error) {
	in, ok := req.Object.(T)
	if !ok {
		return in, apierrors.NewBadRequest(fmt.Sprintf("not a %T: %T", in, req.Object))
	}
	return in, nil
}

func specUser(s *authorizationv1.SubjectAccessReviewSpec) client.User {
	u := client.User{Name: s.User, UID: s.UID, Groups: s.Groups}
	if len(s.Extra) > 0 {
		u.Extra = make(map[string][]string, len(s.Extra))
		for k, v := range s.Extra {
			u.Extra[k] = v
		}
	}
	return u
}

func (r reviewer) decide(ctx context.Context, u client.User, res *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	a := &authz.Attributes{User: u}
	var problems []string
	if path != nil {
		a.Path, a.Verb = path.Path, path.Verb
		if a.Path == "" {
			a.Path = "/"
		}
	} else {
		a.Verb, a.Group, a.Version, a.Resource = res.Verb, res.Group, res.Version, res.Resource
		if a.Version == "" {
			a.Version = "*" // what a webhook is asked about
		}
		a.Subresource, a.Namespace, a.Name = res.Subresource, res.Namespace, res.Name
		var err error
		if a.FieldSelector, err = fieldSelector(res.FieldSelector); err != nil {
			problems = append(problems, err.Error())
		}
		if a.LabelSelector, err = labelSelector(res.LabelSelector); err != nil {
			problems = append(problems, err.Error())
		}
	}
	d, reason, err := r.auth.Authorize(ctx, a)
	if err != nil {
		problems = append(problems, err.Error())
	}
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed: d == authz.Allow, Denied: d == authz.Deny, Reason: reason, EvaluationError: strings.Join(problems, "; "),
	}
}

// A selector that cannot be read is left out: the question is then a wider
// one, and the answer is never more than that.
func fieldSelector(in *authorizationv1.FieldSelectorAttributes) (fields.Selector, error) {
	if in == nil {
		return nil, nil
	}
	if in.RawSelector != "" {
		s, err := fields.ParseSelector(in.RawSelector)
		if err != nil {
			return nil, fmt.Errorf("spec.resourceAttributes.fieldSelector ignored due to parse error: %w", err)
		}
		return s, nil
	}
	var all []fields.Selector
	for _, q := range in.Requirements {
		if len(q.Values) != 1 {
			return nil, fmt.Errorf("spec.resourceAttributes.fieldSelector partially ignored: %s needs one value", q.Key)
		}
		switch q.Operator {
		case metav1.FieldSelectorOpIn:
			all = append(all, fields.OneTermEqualSelector(q.Key, q.Values[0]))
		case metav1.FieldSelectorOpNotIn:
			all = append(all, fields.OneTermNotEqualSelector(q.Key, q.Values[0]))
		default:
			return nil, fmt.Errorf("spec.resourceAttributes.fieldSelector partially ignored: unsupported operator %q", q.Operator)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return fields.AndSelectors(all...), nil
}

var operators = map[metav1.LabelSelectorOperator]selection.Operator{
	metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
	metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
}

func labelSelector(in *authorizationv1.LabelSelectorAttributes) (labels.Selector, error) {
	if in == nil {
		return nil, nil
	}
	if in.RawSelector != "" {
		s, err := labels.Parse(in.RawSelector)
		if err != nil {
			return nil, fmt.Errorf("spec.resourceAttributes.labelSelector ignored due to parse error: %w", err)
		}
		return s, nil
	}
	if len(in.Requirements) == 0 {
		return nil, nil
	}
	out := labels.NewSelector()
	for _, q := range in.Requirements {
		op, ok := operators[q.Operator]
		if !ok {
			return nil, fmt.Errorf("spec.resourceAttributes.labelSelector partially ignored: unsupported operator %q", q.Operator)
		}
		req, err := labels.NewRequirement(q.Key, op, slices.Clone(q.Values))
		if err != nil {
			return nil, fmt.Errorf("spec.resourceAttributes.labelSelector partially ignored: %w", err)
		}
		out = out.Add(*req)
	}
	return out, nil
}
