// Package expression compiles and runs the CEL expressions of admission:
// match conditions, validations, variables, messages, audit annotations and
// mutations. Text and the names it may use go in, a program with a cost limit
// comes out. Languages and libraries are those that 1.36 offers (see the page
// "Common Expression Language in Kubernetes").
package expression

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	celcommon "k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Scope says which names an expression may use beside object, oldObject,
// request and namespaceObject.
type Scope struct {
	// Params offers params, Authorizer authorizer and
	// authorizer.requestResource.
	Params, Authorizer bool
	// Variables makes "variables" known even if there are none.
	Variables bool
	// Mutation offers the types Object and JSONPatch.
	Mutation bool
	// Stored compiles as 1.36 compiles what an older server has accepted.
	Stored bool
	// Object and ParamsObject are the types of object, oldObject and params;
	// nil takes them as they come.
	Object, ParamsObject *apiservercel.DeclType
}

// Env compiles expressions of one scope. Variables that are added are known to
// the expressions compiled afterwards. An Env is used by one goroutine.
type Env struct {
	scope Scope
	vars  *apiservercel.DeclType
	env   *cel.Env // nil after a variable was added
	loose bool     // a result of no known type passes for the one asked for
}

// Program is a compiled expression. It is safe for concurrent use.
type Program struct {
	Source string
	Type   *cel.Type
	prg    cel.Program
}

// The types of results that callers ask for.
var (
	Bool       = cel.BoolType
	String     = cel.StringType
	Null       = cel.NullType
	ObjectType = types.NewObjectType("Object")
	PatchType  = types.NewListType(types.NewObjectType("JSONPatch"))
)

// the newest version, at which every option of the environment is on.
var introduced = version.MajorMinor(1, 0)

// base is the environment without variables; making it takes some
// milliseconds and megabytes, which a cluster without expressions never pays.
var base = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// New starts an environment of a scope.
func New(s Scope) *Env {
	return &Env{scope: s, vars: apiservercel.NewObjectType("kubernetes.variables", map[string]*apiservercel.DeclField{})}
}

// Within starts an environment of another scope that knows the same variables.
// Variables are added before.
func (e *Env) Within(s Scope) *Env { return &Env{scope: s, vars: e.vars} }

// AddVariable makes "variables.name" known with the type of its expression, as
// far as variables have types; nil is that of an expression which does not
// compile.
func (e *Env) AddVariable(name string, t *cel.Type) {
	t = variableType(t)
	decl := apiservercel.NewSimpleTypeWithMinSize(t.String(), t, nil, 0)
	e.vars.Fields[name] = apiservercel.NewDeclField(name, decl, true, nil, nil)
	e.env = nil
}

// variableType is the type that a variable shows: what is no plain value, list
// or map could be anything.
func variableType(t *cel.Type) *cel.Type {
	if t == nil {
		return cel.DynType
	}
	switch t.Kind() {
	case types.ListKind:
		return cel.ListType(variableType(t.Parameters()[0]))
	case types.MapKind:
		return cel.MapType(variableType(t.Parameters()[0]), variableType(t.Parameters()[1]))
	case types.NullTypeKind, types.AnyKind:
		return t
	case types.BoolKind, types.BytesKind, types.DoubleKind, types.DurationKind, types.IntKind,
		types.StringKind, types.TimestampKind, types.UintKind:
		if !t.IsAssignableType(cel.NullType) { // else it is a wrapper, which may be null
			return t
		}
	}
	return cel.DynType
}

// VariablesType is the type of the map in which the values of variables are
// kept.
func (e *Env) VariablesType() *cel.Type { return e.vars.CelType() }

func (e *Env) build() (*cel.Env, error) {
	if e.env != nil {
		return e.env, nil
	}
	req, ns := requestType(), namespaceType()
	decls := []*apiservercel.DeclType{req}
	object, params := cel.DynType, cel.DynType
	if t := e.scope.Object; t != nil {
		decls, object = append(decls, t), t.CelType()
	}
	if t := e.scope.ParamsObject; t != nil {
		decls, params = append(decls, t), t.CelType()
	}
	opts := []cel.EnvOption{
		cel.Variable("object", object), cel.Variable("oldObject", object),
		cel.Variable("request", req.CelType()),
	}
	decls, opts = append(decls, ns), append(opts, cel.Variable("namespaceObject", ns.CelType()))
	if e.scope.Variables || len(e.vars.Fields) > 0 {
		decls, opts = append(decls, e.vars), append(opts, cel.Variable("variables", e.vars.CelType()))
	}
	if e.scope.Params {
		opts = append(opts, cel.Variable("params", params))
	}
	if e.scope.Authorizer {
		opts = append(opts, cel.Variable("authorizer", library.AuthorizerType),
			cel.Variable("authorizer.requestResource", library.ResourceCheckType))
	}
	set, err := base().Extend(environment.VersionedOptions{IntroducedVersion: introduced, EnvOptions: opts, DeclTypes: decls})
	if err != nil {
		return nil, fmt.Errorf("environment of expressions: %w", err)
	}
	if e.scope.Mutation { // on top of the declared types, which would hide it
		set, err = set.Extend(environment.VersionedOptions{IntroducedVersion: introduced, EnvOptions: []cel.EnvOption{
			celcommon.ResolverEnvOption(&mutation.DynamicTypeResolver{}), library.JSONPatch(),
		}})
		if err != nil {
			return nil, fmt.Errorf("environment of mutations: %w", err)
		}
	}
	e.env = set.NewExpressionsEnv()
	if e.scope.Stored {
		e.env = set.StoredExpressionsEnv()
	}
	return e.env, nil
}

// Error is why an expression does not compile, in upstream's words.
type Error struct{ Detail string }

func (e *Error) Error() string { return e.Detail }

// Compile makes a program of an expression whose result is of one of the
// types; none allows any. The error is an *Error if the expression is at fault.
func (e *Env) Compile(source string, want ...*cel.Type) (*Program, error) {
	env, err := e.build()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(source)
	if issues != nil && issues.Err() != nil {
		return nil, &Error{"compilation failed: " + issues.String()}
	}
	if err := e.hasType(ast.OutputType(), want); err != nil {
		return nil, err
	}
	prg, err := env.Program(ast,
		cel.InterruptCheckFrequency(celconfig.CheckFrequency),
		cel.CostLimit(celconfig.PerCallLimit),
		cel.CostTracking(&library.CostEstimator{}),
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost))
	if err != nil {
		return nil, &Error{"program instantiation failed: " + err.Error()}
	}
	return &Program{Source: source, Type: ast.OutputType(), prg: prg}, nil
}

func (e *Env) hasType(got *cel.Type, want []*cel.Type) error {
	if len(want) == 0 {
		return nil
	}
	names := make([]string, len(want))
	for i, w := range want {
		if got.IsExactType(w) || e.loose && got.IsExactType(cel.DynType) {
			return nil
		}
		names[i] = w.String()
	}
	if len(names) == 1 {
		return &Error{"must evaluate to " + names[0] + " but got " + got.String()}
	}
	return &Error{"must evaluate to one of [" + strings.Join(names, " ") + "] but got " + got.String()}
}

// ErrBudget is the cause of an Eval that ran out of the budget it was given.
var ErrBudget = fmt.Errorf("validation failed due to running out of cost budget, no further validation rules will be run")

// Budget is what the expressions of one policy binding or webhook may cost
// together, in CEL's cost units. It is used by one goroutine.
type Budget struct{ Left int64 }

// NewBudget is the budget for validations, NewMatchBudget that for match
// conditions.
func NewBudget() *Budget { return &Budget{celconfig.RuntimeCELCostBudget} }

// NewMatchBudget see NewBudget.
func NewMatchBudget() *Budget { return &Budget{celconfig.RuntimeCELCostBudgetMatchConditions} }

// Eval runs the program on the values of its names. The error is ErrBudget
// once the budget is spent.
func (p *Program) Eval(ctx context.Context, values map[string]any, b *Budget) (ref.Val, error) {
	out, details, err := p.prg.ContextEval(ctx, values)
	if details != nil {
		if cost := details.ActualCost(); cost != nil {
			if *cost > uint64(max(b.Left, 0)) {
				b.Left = -1
				return nil, ErrBudget
			}
			b.Left -= int64(*cost)
		}
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}
