package admissionregistration

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/expression"
)

const maxConditions = 64

// scopes says what the expressions of an object may name: params, anything but
// authorizer (quiet), variables even without any, and the types of mutations.
type scopes struct{ params, quiet, variables, mutation bool }

// env makes the environment; what is stored already is held to what an older
// server accepted.
func (s scopes) env(stored bool) *expression.Env {
	return expression.New(s.scope(stored))
}

func (s scopes) scope(stored bool) expression.Scope {
	return expression.Scope{Params: s.params, Authorizer: !s.quiet, Variables: s.variables, Mutation: s.mutation, Stored: stored}
}

// compiles refuses an expression that does not compile.
func compiles(env *expression.Env, text string, path *field.Path, want ...*cel.Type) field.ErrorList {
	_, errs := compile(env, text, path, want...)
	return errs
}

func compile(env *expression.Env, text string, path *field.Path, want ...*cel.Type) (*expression.Program, field.ErrorList) {
	p, err := env.Compile(text, want...)
	var fault *expression.Error
	switch {
	case errors.As(err, &fault):
		return nil, field.ErrorList{field.Invalid(path, text, fault.Detail)}
	case err != nil:
		return nil, field.ErrorList{field.InternalError(path, err)}
	}
	return p, nil
}

func validateConditions(list []admissionv1.MatchCondition, sc scopes, stored map[string]bool, path *field.Path) field.ErrorList {
	if len(list) == 0 {
		return nil
	}
	var errs field.ErrorList
	if len(list) > maxConditions {
		errs = append(errs, field.TooMany(path, len(list), maxConditions))
	}
	sc.variables = false // conditions know none
	fresh, old := sc.env(false), sc.env(true)
	seen := map[string]bool{}
	for i := range list {
		c, at := &list[i], path.Index(i)
		if text := strings.TrimSpace(c.Expression); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			env := fresh
			if stored[c.Expression] {
				env = old
			}
			errs = append(errs, compiles(env, text, at.Child("expression"), expression.Bool)...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, check.Each(at.Child("name"), c.Name, validation.IsQualifiedName(c.Name))...)
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen[c.Name] = true
	}
	return errs
}

var identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

// reserved are the words that CEL's grammar keeps to itself (language
// definition, "Syntax").
var reserved = []string{"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function",
	"if", "import", "let", "loop", "package", "namespace", "return", "var", "void", "while"}

// validateVariables also returns the environment of what follows, in which
// the variables are known.
func validateVariables(list []admissionv1.Variable, sc scopes, stored map[string]bool, path *field.Path) (*expression.Env, field.ErrorList) {
	// Objects that were accepted keep being compiled as then: their variables
	// have types of that environment.
	env := sc.env(len(stored) > 0)
	var errs field.ErrorList
	for i := range list {
		v, at := &list[i], path.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		p, more := compile(env, v.Expression, at.Child("expression"))
		errs = append(errs, more...)
		var t *cel.Type
		if p != nil {
			t = p.Type
		}
		env.AddVariable(v.Name, t)
	}
	return env, errs
}

func conditionsOf(hooks []admissionv1.MutatingWebhook) map[string]bool {
	out := map[string]bool{}
	for i := range hooks {
		addConditions(out, hooks[i].MatchConditions)
	}
	return out
}

func addConditions(to map[string]bool, list []admissionv1.MatchCondition) {
	for i := range list {
		to[list[i].Expression] = true
	}
}

func validatingExpressions(s *admissionv1.ValidatingAdmissionPolicySpec) map[string]bool {
	out := map[string]bool{}
	addConditions(out, s.MatchConditions)
	for i := range s.Validations {
		out[s.Validations[i].Expression] = true
	}
	for i := range s.AuditAnnotations {
		out[s.AuditAnnotations[i].ValueExpression] = true
	}
	return out
}

func mutatingExpressions(s *admissionv1.MutatingAdmissionPolicySpec) map[string]bool {
	out := map[string]bool{}
	addConditions(out, s.MatchConditions)
	for i := range s.Variables {
		out[s.Variables[i].Expression] = true
	}
	return out
}
