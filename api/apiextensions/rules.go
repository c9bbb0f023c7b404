package apiextensions

import (
	"fmt"
	"math"
	"slices"
	"strings"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/google/cel-go/cel"
)

// The limits of what rules may cost at worst, in CEL's units.
const (
	mostPerRule   = 10_000_000
	mostPerSchema = 100_000_000
)

// oldRules are the expressions of a stored version: they are compiled with
// whatever the server knows, new ones only with what its predecessor did too.
func oldRules(v *extv1.CustomResourceDefinitionVersion) sets.Set[string] {
	out := sets.New[string]()
	if v == nil || v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return out
	}
	collectRules(v.Schema.OpenAPIV3Schema, out)
	return out
}

func collectRules(s *extv1.JSONSchemaProps, out sets.Set[string]) {
	for _, r := range s.XValidations {
		out.Insert(r.Rule, r.MessageExpression)
	}
	for _, p := range s.Properties {
		collectRules(&p, out)
	}
	if s.Items != nil && s.Items.Schema != nil {
		collectRules(s.Items.Schema, out)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		collectRules(s.AdditionalProperties.Schema, out)
	}
}

// ruleEnv chooses the environment of an expression.
type ruleEnv struct{ stored sets.Set[string] }

func (e ruleEnv) RuleEnv(set *environment.EnvSet, expression string) *cel.Env {
	if e.stored.Has(expression) {
		return set.StoredExpressionsEnv()
	}
	return set.NewExpressionsEnv()
}

func (e ruleEnv) MessageExpressionEnv(set *environment.EnvSet, expression string) *cel.Env {
	return e.RuleEnv(set, expression)
}

// rules judges the x-kubernetes-validations of one schema.
type rules struct {
	env   *environment.EnvSet
	load  ruleEnv
	errs  field.ErrorList
	total uint64
	costs []ruleCost
}

type ruleCost struct {
	path *field.Path
	cost uint64
}

func validateRules(s *structural.Structural, stored sets.Set[string], path *field.Path) field.ErrorList {
	if !hasRules(s) {
		return nil
	}
	r := &rules{env: environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), load: ruleEnv{stored}}
	r.walk(s, model.SchemaDeclType(s, true), path, true, 1)
	if r.total > mostPerSchema {
		slices.SortStableFunc(r.costs, func(a, b ruleCost) int {
			switch {
			case a.cost > b.cost:
				return -1
			case a.cost < b.cost:
				return 1
			}
			return 0
		})
		for _, c := range r.costs[:min(len(r.costs), 4)] {
			r.errs = append(r.errs, field.Forbidden(c.path, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"))
		}
		r.errs = append(r.errs, field.Forbidden(path, excess("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", r.total, mostPerSchema)))
	}
	return r.errs
}

// hasRules says whether a schema has rules anywhere.
func hasRules(s *structural.Structural) bool {
	if s == nil {
		return false
	}
	if len(s.XValidations) > 0 || hasRules(s.Items) || s.AdditionalProperties != nil && hasRules(s.AdditionalProperties.Structural) {
		return true
	}
	for _, p := range s.Properties {
		if hasRules(&p) {
			return true
		}
	}
	return s.ValueValidation != nil && len(s.ValueValidation.AllOf) > 0 && slices.ContainsFunc(s.ValueValidation.AllOf, nestedRules)
}

func nestedRules(n structural.NestedValueValidation) bool {
	if len(n.XValidations) > 0 || n.Items != nil && nestedRules(*n.Items) || n.AdditionalProperties != nil && nestedRules(*n.AdditionalProperties) {
		return true
	}
	for _, p := range n.Properties {
		if nestedRules(p) {
			return true
		}
	}
	return slices.ContainsFunc(n.AllOf, nestedRules)
}

// walk judges a schema and all within it. times is how many values of it an
// object may have; 0 is any number.
func (r *rules) walk(s *structural.Structural, decl *apiservercel.DeclType, path *field.Path, root bool, times uint64) {
	if s == nil {
		return
	}
	if len(s.XValidations) > 0 {
		r.compile(s, decl, path.Child("x-kubernetes-validations"), times)
	}
	elem := func() *apiservercel.DeclType {
		if decl == nil {
			return nil
		}
		return decl.ElemType
	}
	r.walk(s.Items, elem(), path.Child("items"), false, repeated(times, s, false))
	if s.AdditionalProperties != nil {
		r.walk(s.AdditionalProperties.Structural, elem(), path.Child("additionalProperties"), false, repeated(times, s, true))
	}
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := s.Properties[name]
		var d *apiservercel.DeclType
		if decl != nil {
			if escaped, ok := apiservercel.Escape(name); ok {
				if f, ok := decl.Fields[escaped]; ok {
					d = f.Type
				}
			}
		}
		if root && name == "metadata" && len(p.XValidations) > 0 {
			r.errs = append(r.errs, field.Forbidden(path.Child("properties").Key(name).Child("x-kubernetes-validations"), "must not be set on metadata"))
			continue
		}
		r.walk(&p, d, path.Child("properties").Key(name), false, times)
	}
}

// repeated is how many values there may be of the elements of a list or map
// of which there may be so many.
func repeated(times uint64, s *structural.Structural, keyed bool) uint64 {
	if s.ValueValidation == nil {
		return 0
	}
	most := s.ValueValidation.MaxItems
	if keyed {
		most = s.ValueValidation.MaxProperties
	}
	if most == nil || *most < 0 {
		return 0
	}
	return multiply(times, max(uint64(*most), 1))
}

func (r *rules) compile(s *structural.Structural, decl *apiservercel.DeclType, path *field.Path, times uint64) {
	for i := range s.XValidations {
		r.errs = append(r.errs, validateRule(&s.XValidations[i], s, path.Index(i))...)
	}
	if decl == nil {
		r.errs = append(r.errs, field.Invalid(path, "", "rules are not allowed on a schema whose type is not known"))
		return
	}
	results, err := structuralcel.Compile(s, decl, celconfig.PerCallLimit, r.env, r.load)
	if err != nil {
		r.errs = append(r.errs, field.InternalError(path, err))
		return
	}
	for i, res := range results {
		rule := &s.XValidations[i]
		at := path.Index(i)
		often := res.MaxCardinality
		if times > 0 {
			often = min(often, times)
		}
		if res.Error != nil {
			r.errs = append(r.errs, compileError(at.Child("rule"), rule.Rule, res.Error))
		}
		if res.MessageExpressionError != nil {
			r.errs = append(r.errs, compileError(at.Child("messageExpression"), rule.MessageExpression, res.MessageExpressionError))
		}
		if res.Error == nil && res.Program != nil {
			r.weigh("estimated rule cost", res.MaxCost, often, at.Child("rule"))
			if rule.OptionalOldSelf != nil && !res.UsesOldSelf {
				r.errs = append(r.errs, field.Invalid(at.Child("optionalOldSelf"), *rule.OptionalOldSelf, "may not be set if oldSelf is not used in rule"))
			}
		}
		if res.MessageExpression != nil {
			r.weigh("estimated messageExpression cost", res.MessageExpressionMaxCost, often, at.Child("messageExpression"))
		}
	}
}

func compileError(path *field.Path, text string, err *apiservercel.Error) *field.Error {
	if err.Type == apiservercel.ErrorTypeRequired {
		return field.Required(path, err.Detail)
	}
	if err.Type == apiservercel.ErrorTypeInternal {
		return field.InternalError(path, err)
	}
	return field.Invalid(path, text, err.Detail)
}

func (r *rules) weigh(what string, cost, times uint64, path *field.Path) {
	total := multiply(cost, times)
	if total > mostPerRule {
		r.errs = append(r.errs, field.Forbidden(path, excess(what, total, mostPerRule)))
	}
	if r.total > math.MaxUint64-total {
		r.total = math.MaxUint64
	} else {
		r.total += total
	}
	r.costs = append(r.costs, ruleCost{path, total})
}

func multiply(a, b uint64) uint64 {
	if b != 0 && a > math.MaxUint64/b {
		return math.MaxUint64
	}
	return a * b
}

func excess(what string, cost, limit uint64) string {
	const advice = " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
	factor := float64(cost) / float64(limit)
	if factor > 100 || math.IsInf(factor, 0) {
		return what + " exceeds budget by factor of more than 100x" + advice
	}
	return fmt.Sprintf("%s exceeds budget by factor of %.1fx%s", what, factor, advice)
}

var ruleReasons = []extv1.FieldValueErrorReason{
	extv1.FieldValueRequired, extv1.FieldValueInvalid, extv1.FieldValueForbidden, extv1.FieldValueDuplicate,
}

func validateRule(rule *extv1.ValidationRule, s *structural.Structural, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	trimmed, message := strings.TrimSpace(rule.Rule), strings.TrimSpace(rule.Message)
	if trimmed == "" {
		errs = append(errs, field.Required(path.Child("rule"), "rule is not specified"))
	}
	switch {
	case rule.Message != "" && message == "":
		errs = append(errs, field.Invalid(path.Child("message"), rule.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(path.Child("message"), rule.Message, "message must not contain line breaks"))
	case strings.ContainsAny(trimmed, "\n\r") && message == "":
		errs = append(errs, field.Required(path.Child("message"), "message must be specified if rule contains line breaks"))
	}
	if rule.MessageExpression != "" && strings.TrimSpace(rule.MessageExpression) == "" {
		errs = append(errs, field.Required(path.Child("messageExpression"), "messageExpression must be non-empty if specified"))
	}
	if rule.Reason != nil && !slices.Contains(ruleReasons, *rule.Reason) {
		errs = append(errs, field.NotSupported(path.Child("reason"), *rule.Reason, ruleReasons))
	}
	if f := rule.FieldPath; f != "" {
		switch {
		case strings.TrimSpace(f) == "":
			errs = append(errs, field.Invalid(path.Child("fieldPath"), f, "fieldPath must be non-empty if specified"))
		case strings.ContainsAny(f, "\n\r"):
			errs = append(errs, field.Invalid(path.Child("fieldPath"), f, "fieldPath must not contain line breaks"))
		default:
			if _, _, err := structuralcel.ValidFieldPath(f, s); err != nil {
				errs = append(errs, field.Invalid(path.Child("fieldPath"), f, fmt.Sprintf("fieldPath must be a valid path: %v", err)))
			}
		}
	}
	return errs
}
