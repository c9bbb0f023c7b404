package oidc

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"github.com/coxswain/cox/api/expression"
	"github.com/coxswain/cox/client"
)

// mapper turns the claims of a token into a user.
type mapper struct {
	cfg *configv1.JWTAuthenticator

	username, groups, uid *expression.Program // nil: by claim
	extra                 []*expression.Program
	claimRules, userRules []*expression.Program // nil: of a claim
}

// newMapper compiles the expressions of a checked configuration.
func newMapper(cfg *configv1.JWTAuthenticator, p *field.Path) (*mapper, field.ErrorList) {
	m := &mapper{cfg: cfg}
	c := compiler{}
	mappings := p.Child("claimMappings")
	m.username = c.claims(cfg.ClaimMappings.Username.Expression, mappings.Child("username", "expression"))
	m.groups = c.claims(cfg.ClaimMappings.Groups.Expression, mappings.Child("groups", "expression"))
	m.uid = c.claims(cfg.ClaimMappings.UID.Expression, mappings.Child("uid", "expression"))
	for i, e := range cfg.ClaimMappings.Extra {
		m.extra = append(m.extra, c.claims(e.ValueExpression, mappings.Child("extra").Index(i).Child("valueExpression")))
	}
	for i, r := range cfg.ClaimValidationRules {
		m.claimRules = append(m.claimRules, c.claims(r.Expression, p.Child("claimValidationRules").Index(i).Child("expression"), expression.Bool))
	}
	for i, r := range cfg.UserValidationRules {
		m.userRules = append(m.userRules, c.user(r.Expression, p.Child("userValidationRules").Index(i).Child("expression")))
	}
	if len(c.errs) == 0 {
		c.verifiedEmail(cfg, mappings.Child("username", "expression"))
	}
	return m, c.errs
}

// compiler makes its environments when the first expression needs them.
type compiler struct {
	errs          field.ErrorList
	ofClaims, ofU *expression.Env
}

func (c *compiler) claimsEnv() (env *expression.Env, err error) {
	if c.ofClaims == nil {
		claims := apiservercel.NewMapType(apiservercel.StringType, apiservercel.AnyType, -1)
		c.ofClaims, err = expression.Declared(expression.Variable{Name: "claims", Type: claims})
	}
	return c.ofClaims, err
}

func (c *compiler) userEnv() (env *expression.Env, err error) {
	if c.ofU == nil {
		list := apiservercel.NewListType(apiservercel.StringType, -1)
		fields := map[string]*apiservercel.DeclField{}
		for name, t := range map[string]*apiservercel.DeclType{
			"username": apiservercel.StringType, "uid": apiservercel.StringType, "groups": list,
			"extra": apiservercel.NewMapType(apiservercel.StringType, list, -1),
		} {
			fields[name] = apiservercel.NewDeclField(name, t, false, nil, nil)
		}
		c.ofU, err = expression.Declared(expression.Variable{Name: "user", Type: apiservercel.NewObjectType("kubernetes.UserInfo", fields)})
	}
	return c.ofU, err
}

func (c *compiler) claims(source string, p *field.Path, want ...*types.Type) *expression.Program {
	return c.compile(source, p, c.claimsEnv, want)
}

func (c *compiler) user(source string, p *field.Path) *expression.Program {
	return c.compile(source, p, c.userEnv, []*types.Type{expression.Bool})
}

func (c *compiler) compile(source string, p *field.Path, env func() (*expression.Env, error), want []*types.Type) *expression.Program {
	if source == "" {
		return nil
	}
	e, err := env()
	if err == nil {
		var out *expression.Program
		if out, err = e.Compile(source, want...); err == nil {
			return out
		}
	}
	c.errs = append(c.errs, field.Invalid(p, source, err.Error()))
	return nil
}

// verifiedEmail: an address that the user only claims to have must not name
// it, so who maps claims.email must look at claims.email_verified somewhere.
func (c *compiler) verifiedEmail(cfg *configv1.JWTAuthenticator, p *field.Path) {
	source := cfg.ClaimMappings.Username.Expression
	looksAt := func(source, claim string) bool {
		env, err := c.claimsEnv()
		if err != nil || source == "" {
			return false
		}
		yes, err := env.Selects(source, "claims", claim)
		return err == nil && yes
	}
	if !looksAt(source, "email") || looksAt(source, "email_verified") {
		return
	}
	for _, e := range cfg.ClaimMappings.Extra {
		if looksAt(e.ValueExpression, "email_verified") {
			return
		}
	}
	for _, r := range cfg.ClaimValidationRules {
		if looksAt(r.Expression, "email_verified") {
			return
		}
	}
	c.errs = append(c.errs, field.Invalid(p, source, "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"))
}

// user maps the claims. The error says which rule or mapping failed; it goes
// to the log, so it quotes no claim.
func (m *mapper) user(ctx context.Context, claims map[string]any) (client.User, error) {
	budget := expression.NewBudget()
	eval := func(p *expression.Program) (ref.Val, error) {
		return p.Eval(ctx, map[string]any{"claims": claims}, budget)
	}
	var u client.User
	if err := m.checkClaims(claims, eval); err != nil {
		return u, err
	}
	var err error
	if u.Name, err = m.name(claims, eval); err != nil {
		return u, err
	}
	if u.Groups, err = m.groupsOf(claims, eval); err != nil {
		return u, err
	}
	if u.UID, err = m.uidOf(claims, eval); err != nil {
		return u, err
	}
	for i, e := range m.cfg.ClaimMappings.Extra {
		values, err := stringsOf(eval(m.extra[i]))
		if err != nil {
			return u, fmt.Errorf("mapping of extra %q: %w", e.Key, err)
		}
		if len(values) > 0 {
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			u.Extra[e.Key] = values
		}
	}
	return u, m.checkUser(ctx, &u, budget)
}

type evaluator func(*expression.Program) (ref.Val, error)

func (m *mapper) checkClaims(claims map[string]any, eval evaluator) error {
	for i, r := range m.cfg.ClaimValidationRules {
		if m.claimRules[i] == nil {
			v, ok := claims[r.Claim]
			if !ok {
				return fmt.Errorf("required claim %s not present", r.Claim)
			}
			if s, ok := v.(string); !ok || s != r.RequiredValue {
				return fmt.Errorf("required claim %s has another value than it must have", r.Claim)
			}
			continue
		}
		if err := holds(eval(m.claimRules[i])); err != nil {
			return fmt.Errorf("claim validation rule %d%s: %w", i, told(r.Message), err)
		}
	}
	return nil
}

func told(message string) string {
	if message == "" {
		return ""
	}
	return " (" + message + ")"
}

var errDoesNotHold = errors.New("does not hold")

func holds(v ref.Val, err error) error {
	if err != nil {
		return err
	}
	if v != types.True {
		return errDoesNotHold
	}
	return nil
}

func (m *mapper) name(claims map[string]any, eval evaluator) (string, error) {
	if m.username != nil {
		v, err := eval(m.username)
		if err != nil {
			return "", fmt.Errorf("mapping of the username: %w", err)
		}
		s, ok := v.Value().(string)
		if !ok || s == "" {
			return "", errors.New("mapping of the username: gives no string, or an empty one")
		}
		return s, nil
	}
	from := &m.cfg.ClaimMappings.Username
	s, ok := claims[from.Claim].(string)
	if !ok || s == "" {
		return "", fmt.Errorf("claim %s is not there, empty or no string", from.Claim)
	}
	if from.Claim == "email" {
		if v, present := claims["email_verified"]; present {
			if verified, ok := v.(bool); !ok || !verified {
				return "", errors.New("email not verified")
			}
		}
	}
	return *from.Prefix + s, nil
}

func (m *mapper) groupsOf(claims map[string]any, eval evaluator) ([]string, error) {
	if m.groups != nil {
		out, err := stringsOf(eval(m.groups))
		if err != nil {
			return nil, fmt.Errorf("mapping of the groups: %w", err)
		}
		return out, nil
	}
	from := &m.cfg.ClaimMappings.Groups
	if from.Claim == "" {
		return nil, nil
	}
	var out []string
	switch v := claims[from.Claim].(type) {
	case nil:
	case string:
		out = []string{*from.Prefix + v}
	case []any:
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, fmt.Errorf("claim %s holds what is no string", from.Claim)
			}
			out = append(out, *from.Prefix+s)
		}
	default:
		return nil, fmt.Errorf("claim %s is neither a string nor a list of strings", from.Claim)
	}
	return out, nil
}

func (m *mapper) uidOf(claims map[string]any, eval evaluator) (string, error) {
	switch from := &m.cfg.ClaimMappings.UID; {
	case m.uid != nil:
		v, err := eval(m.uid)
		if err != nil {
			return "", fmt.Errorf("mapping of the uid: %w", err)
		}
		s, ok := v.Value().(string)
		if !ok {
			return "", errors.New("mapping of the uid: gives no string")
		}
		return s, nil
	case from.Claim != "":
		s, ok := claims[from.Claim].(string)
		if !ok {
			return "", fmt.Errorf("claim %s is not there or no string", from.Claim)
		}
		return s, nil
	}
	return "", nil
}

func (m *mapper) checkUser(ctx context.Context, u *client.User, budget *expression.Budget) error {
	if len(m.userRules) == 0 {
		return nil
	}
	// As the API shows a user: what is empty is absent.
	v := map[string]any{"username": u.Name}
	if u.UID != "" {
		v["uid"] = u.UID
	}
	if len(u.Groups) > 0 {
		v["groups"] = u.Groups
	}
	if len(u.Extra) > 0 {
		v["extra"] = u.Extra
	}
	for i, r := range m.cfg.UserValidationRules {
		if err := holds(m.userRules[i].Eval(ctx, map[string]any{"user": v}, budget)); err != nil {
			return fmt.Errorf("user validation rule %d%s: %w", i, told(r.Message), err)
		}
	}
	return nil
}

// stringsOf reads a string, a list of strings or null; empty strings are left
// out.
func stringsOf(v ref.Val, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.String:
		if v == "" {
			return nil, nil
		}
		return []string{string(v)}, nil
	case traits.Lister:
		var out []string
		for it := v.Iterator(); it.HasNext() == types.True; {
			s, ok := it.Next().Value().(string)
			if !ok {
				return nil, errors.New("gives a list of what are no strings")
			}
			if s != "" {
				out = append(out, s)
			}
		}
		return out, nil
	}
	return nil, errors.New("gives neither a string nor a list of strings")
}
