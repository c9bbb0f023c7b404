package policies

import (
	"context"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/cel/lazy"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/apiserver/admission/match"
	"github.com/coxswain/cox/client"
)

// policy is a compiled policy of either sort. It is read only.
type policy struct {
	name, version string
	constraints   *constraints
	ignores       bool // its failure policy
	param         *admissionv1.ParamKind
	conditions    *match.Conditions
	env           *expression.Env
	variables     []variable
	validations   []validation
	annotations   []annotation
	mutations     []mutation
	reinvoke      bool
	err           error // why it cannot be carried out
	bindings      []*binding
}

type variable struct {
	name string
	prg  *expression.Program
}

type validation struct {
	check, message *expression.Program // message may be nil
	text           string
	reason         metav1.StatusReason
}

type annotation struct {
	key string
	prg *expression.Program
}

type mutation struct {
	apply bool // else a JSON patch
	prg   *expression.Program
}

// binding is a parsed binding of either sort.
type binding struct {
	name, policy string
	constraints  *constraints // nil is all
	param        *admissionv1.ParamRef
	params       labels.Selector // of param
	actions      []admissionv1.ValidationAction
	err          error
}

// constraints are parsed MatchResources.
type constraints struct {
	*admissionv1.MatchResources
	namespaces, objects labels.Selector
}

func newConstraints(m *admissionv1.MatchResources) (*constraints, error) {
	if m == nil {
		return nil, nil
	}
	c := &constraints{MatchResources: m}
	var err error
	if c.namespaces, err = match.Selector(m.NamespaceSelector); err != nil {
		return nil, err
	}
	c.objects, err = match.Selector(m.ObjectSelector)
	return c, err
}

// match says whether the constraints are about a write, and in which version
// the rule that says so names it.
func (c *constraints) match(ctx context.Context, w *match.Write) (match.Seen, bool, error) {
	if c == nil {
		return w.Requested(), true, nil
	}
	if ok, err := w.Namespaces(ctx, c.namespaces); !ok || err != nil {
		return match.Seen{}, false, err
	}
	if !w.Objects(c.objects) {
		return match.Seen{}, false, nil
	}
	n, rules := match.NamedRulesOf(c.ExcludeResourceRules)
	if _, ok := w.Rules(n, rules, c.MatchPolicy); ok {
		return match.Seen{}, false, nil
	}
	if len(c.ResourceRules) == 0 {
		return w.Requested(), true, nil
	}
	n, rules = match.NamedRulesOf(c.ResourceRules)
	seen, ok := w.Rules(n, rules, c.MatchPolicy)
	return seen, ok, nil
}

func newBinding(o any) *binding {
	var out *binding
	var m *admissionv1.MatchResources
	switch b := o.(type) {
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		out = &binding{name: b.Name, policy: b.Spec.PolicyName, param: b.Spec.ParamRef, actions: b.Spec.ValidationActions}
		m = b.Spec.MatchResources
	case *admissionv1.MutatingAdmissionPolicyBinding:
		out = &binding{name: b.Name, policy: b.Spec.PolicyName, param: b.Spec.ParamRef}
		m = b.Spec.MatchResources
	}
	out.constraints, out.err = newConstraints(m)
	if out.param != nil && out.err == nil {
		out.params, out.err = match.Selector(out.param.Selector)
	}
	return out
}

func newPolicy(o client.Object) *policy {
	switch p := o.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		s := &p.Spec
		out := compileHead(o, s.ParamKind, s.FailurePolicy, s.MatchConstraints, s.MatchConditions, s.Variables)
		messages := out.env.Within(expression.Scope{Params: s.ParamKind != nil, Stored: true})
		for i := range s.Validations {
			v := &s.Validations[i]
			c := validation{check: out.compile(out.env, v.Expression, expression.Bool), text: v.Message}
			if v.MessageExpression != "" {
				c.message = out.compile(messages, v.MessageExpression, expression.String)
			}
			if v.Reason != nil {
				c.reason = *v.Reason
			}
			out.validations = append(out.validations, c)
		}
		for i := range s.AuditAnnotations {
			a := &s.AuditAnnotations[i]
			out.annotations = append(out.annotations, annotation{a.Key, out.compile(out.env, a.ValueExpression, expression.String, expression.Null)})
		}
		return out
	case *admissionv1.MutatingAdmissionPolicy:
		s := &p.Spec
		out := compileHead(o, s.ParamKind, s.FailurePolicy, s.MatchConstraints, s.MatchConditions, s.Variables)
		out.reinvoke = s.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy
		env := out.env.Within(expression.Scope{Params: s.ParamKind != nil, Authorizer: true, Mutation: true, Stored: true})
		for i := range s.Mutations {
			switch m := &s.Mutations[i]; {
			case m.ApplyConfiguration != nil:
				out.mutations = append(out.mutations, mutation{true, out.compile(env, m.ApplyConfiguration.Expression, expression.ObjectType)})
			case m.JSONPatch != nil:
				out.mutations = append(out.mutations, mutation{false, out.compile(env, m.JSONPatch.Expression, expression.PatchType)})
			}
		}
		return out
	}
	panic(fmt.Sprintf("%T is no policy", o))
}

func compileHead(o client.Object, param *admissionv1.ParamKind, f *admissionv1.FailurePolicyType, m *admissionv1.MatchResources,
	conditions []admissionv1.MatchCondition, variables []admissionv1.Variable) *policy {
	scope := expression.Scope{Params: param != nil, Authorizer: true, Stored: true}
	p := &policy{
		name: o.GetName(), version: o.GetResourceVersion(), param: param, ignores: f != nil && *f == admissionv1.Ignore,
		conditions: match.Compile(conditions, scope), env: expression.New(scope),
	}
	p.constraints, p.err = newConstraints(m)
	for i := range variables {
		v := &variables[i]
		prg := p.compile(p.env, v.Expression)
		if prg == nil {
			break
		}
		p.variables = append(p.variables, variable{v.Name, prg})
		p.env.AddVariable(v.Name, prg.Type)
	}
	return p
}

// compile notes the first expression that does not compile and returns nil
// for it.
func (p *policy) compile(env *expression.Env, text string, want ...*cel.Type) *expression.Program {
	prg, err := env.Compile(text, want...)
	if err != nil && p.err == nil {
		p.err = err
	}
	return prg
}

// evaluation is one run of a policy's expressions, with one parameter.
type evaluation struct {
	ctx    context.Context
	values map[string]any
	budget *expression.Budget
}

// begin adds the parameter and the variables, which are evaluated when first
// used, to the values.
func (p *policy) begin(ctx context.Context, values map[string]any, param any) *evaluation {
	e := &evaluation{ctx: ctx, values: make(map[string]any, len(values)+2), budget: expression.NewBudget()}
	for k, v := range values {
		e.values[k] = v
	}
	if p.param != nil {
		e.values["params"] = param
	}
	vars := lazy.NewMapValue(p.env.VariablesType())
	for _, v := range p.variables {
		vars.Append(v.name, func(*lazy.MapValue) ref.Val {
			out, err := v.prg.Eval(ctx, e.values, e.budget)
			if err != nil {
				return types.NewErr("composited variable %q fails to evaluate: %v", v.name, err)
			}
			return out
		})
	}
	e.values["variables"] = vars
	return e
}

func (e *evaluation) eval(p *expression.Program) (ref.Val, error) {
	return p.Eval(e.ctx, e.values, e.budget)
}
