package expression

import (
	"fmt"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Variable is a name with its type.
type Variable struct {
	Name string
	Type *apiservercel.DeclType
}

// Declared starts an environment in which nothing but the variables is known:
// that of configuration files, whose expressions see no object. What claims are is
// found out when they are read, so a result of no known type passes.
func Declared(vars ...Variable) (*Env, error) {
	o := environment.VersionedOptions{IntroducedVersion: introduced}
	for _, v := range vars {
		o.EnvOptions = append(o.EnvOptions, cel.Variable(v.Name, v.Type.CelType()))
		if v.Type.IsObject() {
			o.DeclTypes = append(o.DeclTypes, v.Type)
		}
	}
	set, err := base().Extend(o)
	if err != nil {
		return nil, fmt.Errorf("environment of expressions: %w", err)
	}
	return &Env{env: set.NewExpressionsEnv(), loose: true}, nil
}

// Selects says whether an expression looks at a field of a variable, in
// whichever notation: v.f, v["f"], v.?f, v[?"f"] or has(v.f).
func (e *Env) Selects(source, variable, field string) (bool, error) {
	env, err := e.build()
	if err != nil {
		return false, err
	}
	parsed, issues := env.Parse(source)
	if issues != nil && issues.Err() != nil {
		return false, &Error{"compilation failed: " + issues.String()}
	}
	found := false
	celast.PreOrderVisit(parsed.NativeRep().Expr(), celast.NewExprVisitor(func(x celast.Expr) {
		switch x.Kind() {
		case celast.SelectKind:
			s := x.AsSelect()
			found = found || isName(s.Operand(), variable) && s.FieldName() == field
		case celast.CallKind:
			c := x.AsCall()
			switch c.FunctionName() {
			case operators.Index, operators.OptIndex, operators.OptSelect:
				found = found || len(c.Args()) == 2 && isName(c.Args()[0], variable) && isText(c.Args()[1], field)
			}
		}
	}))
	return found, nil
}

func isName(x celast.Expr, name string) bool {
	return x.Kind() == celast.IdentKind && x.AsIdent() == name
}

func isText(x celast.Expr, text string) bool {
	return x.Kind() == celast.LiteralKind && x.AsLiteral().Value() == text
}
