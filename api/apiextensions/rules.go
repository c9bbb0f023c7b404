package apiextensions

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	structuralcel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
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

// oldRules are the expressions of a stored schema: they are compiled with
// whatever the server knows, new ones only with what its predecessor did too.
func oldRules(s *hub.JSONSchemaProps) sets.Set[string] {
	out := sets.New[string]()
	if s != nil {
		collectRules(s, out)
	}
	return out
}

func collectRules(s *hub.JSONSchemaProps, out sets.Set[string]) {
	for _, r := range s.XValidations {
		out.Insert(r.Rule, r.MessageExpression)
	}
	for _, c := range children(s, field.NewPath("x")) {
		collectRules(c.schema, out)
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

// newRules judges the rules of a schema; stored are those that it had before.
func newRules(s *structural.Structural, stored sets.Set[string]) *rules {
	r := &rules{load: ruleEnv{stored}}
	if hasRules(s) {
		r.env = environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	}
	return r
}

// verdict is what is wrong with the rules judged; path is the whole schema's.
func (r *rules) verdict(path *field.Path) field.ErrorList {
	if r.total > mostPerSchema {
		slices.SortStableFunc(r.costs, func(a, b ruleCost) int { return cmp.Compare(b.cost, a.cost) })
		for _, c := range r.costs[:min(len(r.costs), 4)] {
			if c.cost <= mostPerSchema/100 {
				break
			}
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

// place is where a schema is within the object's.
type place struct {
	times times
	// lost is the path of the list whose elements an update cannot tell from
	// one another; nil outside of such lists.
	lost *field.Path
}

// times is how many values of a schema an object may have.
type times struct {
	most  uint64
	known bool // else any number
}

// repeated is how many values there may be of the elements of a list or map
// of which there may be so many.
func repeated(of times, s *structural.Structural, keyed bool) times {
	if s.ValueValidation == nil || !of.known {
		return times{}
	}
	most := s.ValueValidation.MaxItems
	if keyed {
		most = s.ValueValidation.MaxProperties
	}
	if most == nil || *most < 0 {
		return times{}
	}
	return times{multiply(of.most, uint64(*most)), true}
}

// judge compiles and weighs the rules of one schema.
func (r *rules) judge(s *structural.Structural, decl *apiservercel.DeclType, path *field.Path, at place) {
	if decl == nil {
		r.errs = append(r.errs, field.InternalError(path, errors.New("internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations")))
		return
	}
	results, err := structuralcel.Compile(s, decl, celconfig.PerCallLimit, r.env, r.load)
	if err != nil {
		r.errs = append(r.errs, field.InternalError(path, err))
		return
	}
	for i := range results {
		r.result(&results[i], &s.XValidations[i], path.Index(i), at)
	}
}

// result judges a compiled rule.
func (r *rules) result(res *structuralcel.CompilationResult, rule *extv1.ValidationRule, path *field.Path, at place) {
	often := res.MaxCardinality
	if at.times.known {
		often = at.times.most
	}
	if res.Error == nil && res.Program != nil {
		r.weigh("estimated rule cost", res.MaxCost, often, path.Child("rule"))
	}
	if res.MessageExpression != nil {
		r.weigh("estimated messageExpression cost", res.MessageExpressionMaxCost, often, path.Child("messageExpression"))
	}
	if res.Error != nil {
		r.errs = append(r.errs, compileError(path.Child("rule"), rule, res.Error))
	}
	if res.MessageExpressionError != nil {
		r.errs = append(r.errs, compileError(path.Child("messageExpression"), rule, res.MessageExpressionError))
	}
	switch {
	case res.UsesOldSelf && at.lost != nil:
		r.errs = append(r.errs, field.Invalid(path.Child("rule"), rule.Rule, fmt.Sprintf("oldSelf cannot be used on the uncorrelatable portion of the schema within %v", at.lost)))
	case rule.OptionalOldSelf != nil && !res.UsesOldSelf && res.Error == nil:
		r.errs = append(r.errs, field.Invalid(path.Child("optionalOldSelf"), *rule.OptionalOldSelf, "may not be set if oldSelf is not used in rule"))
	}
}

// compileError is what a client sees of an expression that does not compile:
// the rule as a whole is the invalid value.
func compileError(path *field.Path, rule *extv1.ValidationRule, err *apiservercel.Error) *field.Error {
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.Required(path, err.Detail)
	case apiservercel.ErrorTypeInternal:
		return field.InternalError(path, err)
	}
	whole := hub.ValidationRule{
		Rule: rule.Rule, Message: rule.Message, MessageExpression: rule.MessageExpression,
		Reason: (*hub.FieldValueErrorReason)(rule.Reason), FieldPath: rule.FieldPath, OptionalOldSelf: rule.OptionalOldSelf,
	}
	return field.Invalid(path, whole, err.Detail)
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
	size := fmt.Sprintf("%.1fx", factor)
	switch {
	case factor > 100 || math.IsInf(factor, 0):
		size = "more than 100x"
	case factor < 1.5:
		size = fmt.Sprintf("%fx", factor)
	}
	return what + " exceeds budget by factor of " + size + advice
}

var ruleReasons = []hub.FieldValueErrorReason{
	hub.FieldValueDuplicate, hub.FieldValueForbidden, hub.FieldValueInvalid, hub.FieldValueRequired,
}

// validateRule checks a rule by itself. s, the schema it is of, is nil where
// there is none: then it cannot be told whether the rule's path leads anywhere.
func validateRule(rule *hub.ValidationRule, s *structural.Structural, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	trimmed, message := strings.TrimSpace(rule.Rule), strings.TrimSpace(rule.Message)
	if trimmed == "" {
		errs = append(errs, field.Required(path.Child("rule"), "rule is not specified"))
	}
	switch {
	case rule.Message != "" && message == "":
		errs = append(errs, field.Invalid(path.Child("message"), rule.Message, "must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(path.Child("message"), rule.Message, "must not contain line breaks"))
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
		at := path.Child("fieldPath")
		if strings.TrimSpace(f) == "" {
			errs = append(errs, field.Invalid(at, f, "must be non-empty if specified"))
		}
		if strings.ContainsAny(f, "\n\r") {
			errs = append(errs, field.Invalid(at, f, "must not contain line breaks"))
		}
		if s != nil {
			if _, _, err := structuralcel.ValidFieldPath(f, s); err != nil {
				errs = append(errs, field.Invalid(at, f, "must be a valid path"))
			}
		}
	}
	return errs
}
