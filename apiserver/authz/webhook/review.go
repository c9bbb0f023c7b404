package webhook

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/cel-go/common/types"
	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/authz"
)

// review is the question about a request.
func review(a *authz.Attributes) *authorizationv1.SubjectAccessReviewSpec {
	s := &authorizationv1.SubjectAccessReviewSpec{User: a.User.Name, UID: a.User.UID, Groups: a.User.Groups}
	if len(a.User.Extra) > 0 {
		s.Extra = make(map[string]authorizationv1.ExtraValue, len(a.User.Extra))
		for k, v := range a.User.Extra {
			s.Extra[k] = v
		}
	}
	if !a.IsResource() {
		s.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
		return s
	}
	s.ResourceAttributes = &authorizationv1.ResourceAttributes{
		Namespace: a.Namespace, Verb: a.Verb, Group: a.Group, Version: a.Version,
		Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
		FieldSelector: fieldRequirements(a.FieldSelector), LabelSelector: labelRequirements(a.LabelSelector),
	}
	return s
}

// Requirements of a selector only narrow a request, so those that a review
// cannot express are left out.
func fieldRequirements(sel fields.Selector) *authorizationv1.FieldSelectorAttributes {
	if sel == nil || sel.Empty() {
		return nil
	}
	out := &authorizationv1.FieldSelectorAttributes{}
	for _, r := range sel.Requirements() {
		op := metav1.FieldSelectorOpIn
		if r.Operator == selection.NotEquals {
			op = metav1.FieldSelectorOpNotIn
		}
		out.Requirements = append(out.Requirements, metav1.FieldSelectorRequirement{Key: r.Field, Operator: op, Values: []string{r.Value}})
	}
	if len(out.Requirements) == 0 {
		return nil
	}
	return out
}

var labelOperators = map[selection.Operator]metav1.LabelSelectorOperator{
	selection.Equals: metav1.LabelSelectorOpIn, selection.DoubleEquals: metav1.LabelSelectorOpIn, selection.In: metav1.LabelSelectorOpIn,
	selection.NotEquals: metav1.LabelSelectorOpNotIn, selection.NotIn: metav1.LabelSelectorOpNotIn,
	selection.Exists: metav1.LabelSelectorOpExists, selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
}

func labelRequirements(sel labels.Selector) *authorizationv1.LabelSelectorAttributes {
	if sel == nil || sel.Empty() {
		return nil
	}
	reqs, selectable := sel.Requirements()
	if !selectable {
		return nil
	}
	out := &authorizationv1.LabelSelectorAttributes{}
	for _, r := range reqs {
		if op, ok := labelOperators[r.Operator()]; ok {
			values := r.ValuesUnsorted()
			slices.Sort(values)
			out.Requirements = append(out.Requirements, metav1.LabelSelectorRequirement{Key: r.Key(), Operator: op, Values: values})
		}
	}
	if len(out.Requirements) == 0 {
		return nil
	}
	return out
}

// older is the same question in v1beta1, which calls the groups "group".
func older(s *authorizationv1.SubjectAccessReviewSpec) authorizationv1beta1.SubjectAccessReviewSpec {
	out := authorizationv1beta1.SubjectAccessReviewSpec{User: s.User, UID: s.UID, Groups: s.Groups}
	if r := s.ResourceAttributes; r != nil {
		out.ResourceAttributes = &authorizationv1beta1.ResourceAttributes{
			Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Version: r.Version,
			Resource: r.Resource, Subresource: r.Subresource, Name: r.Name,
			FieldSelector: r.FieldSelector, LabelSelector: r.LabelSelector,
		}
	}
	if n := s.NonResourceAttributes; n != nil {
		out.NonResourceAttributes = &authorizationv1beta1.NonResourceAttributes{Path: n.Path, Verb: n.Verb}
	}
	if len(s.Extra) > 0 {
		out.Extra = make(map[string]authorizationv1beta1.ExtraValue, len(s.Extra))
		for k, v := range s.Extra {
			out.Extra[k] = authorizationv1beta1.ExtraValue(v)
		}
	}
	return out
}

// maxConditions is how many match conditions a webhook may have.
const maxConditions = 64

// Conditions compiles match conditions: CEL over "request", the spec of the
// SubjectAccessReview in v1.
func Conditions(sources []string, p *field.Path) ([]*expression.Program, field.ErrorList) {
	if len(sources) == 0 {
		return nil, nil
	}
	if len(sources) > maxConditions {
		return nil, field.ErrorList{field.TooMany(p, len(sources), maxConditions)}
	}
	env, err := expression.Declared(expression.Variable{Name: "request", Type: requestType()})
	if err != nil {
		return nil, field.ErrorList{field.InternalError(p, err)}
	}
	var out []*expression.Program
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, source := range sources {
		p := p.Index(i).Child("expression")
		switch {
		case source == "":
			errs = append(errs, field.Required(p, ""))
			continue
		case seen[source]:
			errs = append(errs, field.Duplicate(p, source))
			continue
		}
		seen[source] = true
		prg, err := env.Compile(source, expression.Bool)
		if err != nil {
			errs = append(errs, field.Invalid(p, source, err.Error()))
			continue
		}
		out = append(out, prg)
	}
	return out, errs
}

func object(name string, fieldTypes map[string]*apiservercel.DeclType) *apiservercel.DeclType {
	out := map[string]*apiservercel.DeclField{}
	for n, t := range fieldTypes {
		out[n] = apiservercel.NewDeclField(n, t, false, nil, nil)
	}
	return apiservercel.NewObjectType("kubernetes."+name, out)
}

func requestType() *apiservercel.DeclType {
	text := apiservercel.StringType
	list := apiservercel.NewListType(text, -1)
	selector := func(name string) *apiservercel.DeclType {
		requirement := object(name+"Requirement", map[string]*apiservercel.DeclType{"key": text, "operator": text, "values": list})
		return object(name, map[string]*apiservercel.DeclType{
			"rawSelector": text, "requirements": apiservercel.NewListType(requirement, -1),
		})
	}
	return object("SubjectAccessReviewSpec", map[string]*apiservercel.DeclType{
		"user": text, "uid": text, "groups": list, "extra": apiservercel.NewMapType(text, list, -1),
		"resourceAttributes": object("ResourceAttributes", map[string]*apiservercel.DeclType{
			"namespace": text, "verb": text, "group": text, "version": text, "resource": text, "subresource": text, "name": text,
			"fieldSelector": selector("FieldSelector"), "labelSelector": selector("LabelSelector"),
		}),
		"nonResourceAttributes": object("NonResourceAttributes", map[string]*apiservercel.DeclType{"path": text, "verb": text}),
	})
}

// concerned says whether the webhook is to be asked. One condition that does
// not hold settles it, whatever the others' errors.
func (a *Authorizer) concerned(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	if len(a.cfg.Conditions) == 0 {
		return true, nil
	}
	values := map[string]any{"request": asValues(spec)}
	budget := expression.NewMatchBudget()
	var failed error
	for _, c := range a.cfg.Conditions {
		out, err := c.Eval(ctx, values, budget)
		switch {
		case err != nil && failed == nil:
			failed = fmt.Errorf("%s: %w", c.Source, err)
		case err == nil && out == types.False:
			return false, nil
		case err == nil && out != types.True && failed == nil:
			failed = fmt.Errorf("%s: is no boolean", c.Source)
		}
	}
	return failed == nil, failed
}

// asValues is the review as expressions see it: the strings of attributes are
// there though empty, what is not asked about is absent.
func asValues(s *authorizationv1.SubjectAccessReviewSpec) map[string]any {
	groups := s.Groups
	if groups == nil {
		groups = []string{}
	}
	out := map[string]any{"user": s.User, "uid": s.UID, "groups": groups}
	extra := make(map[string][]string, len(s.Extra))
	for k, v := range s.Extra {
		extra[k] = v
	}
	out["extra"] = extra
	if n := s.NonResourceAttributes; n != nil {
		out["nonResourceAttributes"] = map[string]any{"path": n.Path, "verb": n.Verb}
	}
	r := s.ResourceAttributes
	if r == nil {
		return out
	}
	attrs := map[string]any{
		"namespace": r.Namespace, "verb": r.Verb, "group": r.Group, "version": r.Version,
		"resource": r.Resource, "subresource": r.Subresource, "name": r.Name,
	}
	if f := r.FieldSelector; f != nil {
		var list []map[string]any
		for _, q := range f.Requirements {
			list = append(list, map[string]any{"key": q.Key, "operator": string(q.Operator), "values": q.Values})
		}
		attrs["fieldSelector"] = map[string]any{"requirements": list}
	}
	if l := r.LabelSelector; l != nil {
		var list []map[string]any
		for _, q := range l.Requirements {
			list = append(list, map[string]any{"key": q.Key, "operator": string(q.Operator), "values": q.Values})
		}
		attrs["labelSelector"] = map[string]any{"requirements": list}
	}
	out["resourceAttributes"] = attrs
	return out
}
