package match

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/common/types"
	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/authz"
	"github.com/coxswain/cox/client"
)

// Request describes the write as admission.k8s.io/v1 does, without the
// objects and the UID. s is the version that has been matched.
func (w *Write) Request(s Seen) *admissionreviewv1.AdmissionRequest {
	req := w.Requested()
	dry := w.DryRun
	extra := make(map[string]authenticationv1.ExtraValue, len(w.User.Extra))
	for k, v := range w.User.Extra {
		extra[k] = v
	}
	return &admissionreviewv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(s.Kind), Resource: metav1.GroupVersionResource(s.Resource), SubResource: w.Subresource,
		RequestKind: ptr(metav1.GroupVersionKind(req.Kind)), RequestResource: ptr(metav1.GroupVersionResource(req.Resource)),
		RequestSubResource: w.Subresource, Name: w.Name, Namespace: w.Namespace,
		Operation: admissionreviewv1.Operation(w.Operation),
		UserInfo:  authenticationv1.UserInfo{Username: w.User.Name, UID: w.User.UID, Groups: w.User.Groups, Extra: extra},
		DryRun:    &dry,
		Options:   runtime.RawExtension{Object: w.options()},
	}
}

func ptr[T any](v T) *T { return &v }

// options are the request's options in the kind of its operation.
func (w *Write) options() runtime.Object {
	o := w.Options
	if o == nil {
		return nil
	}
	var dry []string
	if w.DryRun {
		dry = []string{metav1.DryRunAll}
	}
	meta := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: kind}
	}
	switch w.Operation {
	case admission.Create:
		return &metav1.CreateOptions{TypeMeta: meta("CreateOptions"), DryRun: dry, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	case admission.Update:
		if o.Force {
			return &metav1.PatchOptions{TypeMeta: meta("PatchOptions"), DryRun: dry, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation, Force: &o.Force}
		}
		return &metav1.UpdateOptions{TypeMeta: meta("UpdateOptions"), DryRun: dry, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	case admission.Delete:
		return &metav1.DeleteOptions{
			TypeMeta: meta("DeleteOptions"), DryRun: dry, GracePeriodSeconds: o.GracePeriodSeconds,
			OrphanDependents: o.OrphanDependents, PropagationPolicy: o.PropagationPolicy, Preconditions: o.Preconditions,
		}
	}
	return nil
}

// Values are what the names of expressions stand for, for one write in the
// version of a match. authz answers authorizer's questions.
func (w *Write) Values(ctx context.Context, s Seen, az authz.Authorizer, namespace bool) (map[string]any, error) {
	out := map[string]any{}
	for name, obj := range map[string]runtime.Object{"object": w.Object, "oldObject": w.Old} {
		seen, err := w.In(s, obj)
		if err != nil {
			return nil, err
		}
		if out[name], err = expression.Value(seen); err != nil {
			return nil, err
		}
	}
	req := w.Request(s)
	options := req.Options.Object
	req.Options.Object = nil
	values, err := runtime.DefaultUnstructuredConverter.ToUnstructured(req)
	if err != nil {
		return nil, err
	}
	if options != nil {
		if values["options"], err = expression.Value(options); err != nil {
			return nil, err
		}
	}
	out["request"] = values
	if namespace {
		out["namespaceObject"] = nil
		if !w.isNamespace() {
			ns, err := w.NamespaceObject(ctx)
			if err != nil {
				return nil, err
			}
			if ns != nil {
				if out["namespaceObject"], err = expression.Value(ns); err != nil {
					return nil, err
				}
			}
		}
	}
	who := w.User
	asker := &asker{az}
	out["authorizer"] = library.NewAuthorizerVal(userInfo(who), asker)
	out["authorizer.requestResource"] = library.NewResourceAuthorizerVal(userInfo(who), asker, requestResource{w})
	return out, nil
}

// Conditions are compiled match conditions. They are safe for concurrent use.
type Conditions struct {
	list []condition
	err  error
}

type condition struct {
	name string
	prg  *expression.Program
}

// Compile compiles match conditions; one that does not compile makes every
// Match an error.
func Compile(list []admissionv1.MatchCondition, s expression.Scope) *Conditions {
	c := &Conditions{}
	if len(list) == 0 {
		return c
	}
	s.Authorizer, s.Stored = true, true
	env := expression.New(s)
	for i := range list {
		p, err := env.Compile(list[i].Expression, expression.Bool)
		if err != nil {
			c.err = err
			return c
		}
		c.list = append(c.list, condition{list[i].Name, p})
	}
	return c
}

// Empty says that there are none.
func (c *Conditions) Empty() bool { return len(c.list) == 0 && c.err == nil }

// Match says whether all conditions hold. One that is false wins over errors
// of others.
func (c *Conditions) Match(ctx context.Context, values map[string]any) (bool, error) {
	if c.err != nil {
		return false, c.err
	}
	budget := expression.NewMatchBudget()
	var errs []string
	for _, m := range c.list {
		v, err := m.prg.Eval(ctx, values, budget)
		if errors.Is(err, expression.ErrBudget) {
			return false, err
		}
		if err != nil {
			errs = append(errs, fmt.Sprintf("expression '%v' resulted in error: %v", m.prg.Source, err))
			continue
		}
		if v != types.True {
			return false, nil
		}
	}
	switch len(errs) {
	case 0:
		return true, nil
	case 1:
		return false, errors.New(errs[0])
	}
	return false, errors.New("[" + strings.Join(errs, ", ") + "]")
}

// requestResource is what authorizer.requestResource is about.
type requestResource struct{ w *Write }

func (r requestResource) GetName() string      { return r.w.Name }
func (r requestResource) GetNamespace() string { return r.w.Namespace }
func (r requestResource) GetResource() schema.GroupVersionResource {
	return r.w.Resource
}
func (r requestResource) GetSubresource() string { return r.w.Subresource }

func userInfo(u client.User) user.Info {
	return &user.DefaultInfo{Name: u.Name, UID: u.UID, Groups: u.Groups, Extra: u.Extra}
}

func fieldSelector(reqs fields.Requirements) fields.Selector {
	var all []fields.Selector
	for _, r := range reqs {
		if r.Operator == selection.NotEquals {
			all = append(all, fields.OneTermNotEqualSelector(r.Field, r.Value))
		} else {
			all = append(all, fields.OneTermEqualSelector(r.Field, r.Value))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return fields.AndSelectors(all...)
}

// asker carries CEL's questions to our authorizer.
type asker struct{ authz authz.Authorizer }

func (a *asker) Authorize(ctx context.Context, q authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.authz == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	attrs := &authz.Attributes{Verb: q.GetVerb()}
	if u := q.GetUser(); u != nil {
		attrs.User = client.User{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()}
	}
	if q.IsResourceRequest() {
		attrs.Group, attrs.Version, attrs.Resource, attrs.Subresource = q.GetAPIGroup(), q.GetAPIVersion(), q.GetResource(), q.GetSubresource()
		attrs.Namespace, attrs.Name = q.GetNamespace(), q.GetName()
		// A selector that cannot be read is left out: the question is then a
		// wider one.
		if reqs, err := q.GetFieldSelector(); err == nil {
			attrs.FieldSelector = fieldSelector(reqs)
		}
		if reqs, err := q.GetLabelSelector(); err == nil && len(reqs) > 0 {
			attrs.LabelSelector = labels.NewSelector().Add(reqs...)
		}
	} else {
		attrs.Path = q.GetPath()
	}
	d, reason, err := a.authz.Authorize(ctx, attrs)
	switch d {
	case authz.Allow:
		return authorizer.DecisionAllow, reason, err
	case authz.Deny:
		return authorizer.DecisionDeny, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}
