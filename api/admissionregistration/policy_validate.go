package admissionregistration

import (
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	pathsegment "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/expression"
)

const (
	maxAuditAnnotations = 20
	maxValueExpression  = 5 * 1024
)

func validateValidatingPolicy(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	var stored map[string]bool
	if old != nil {
		stored = validatingExpressions(&old.Spec)
	}
	sc := scopes{params: s.ParamKind != nil, variables: len(s.Variables) > 0}
	errs := validateHead(s.FailurePolicy, s.ParamKind, s.MatchConstraints, path)
	errs = append(errs, validateConditions(s.MatchConditions, sc, stored, path.Child("matchConditions"))...)
	env, more := validateVariables(s.Variables, sc, stored, path.Child("variables"))
	errs = append(errs, more...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const text = "validations or auditAnnotations must contain at least one item"
		errs = append(errs, field.Required(path.Child("validations"), text), field.Required(path.Child("auditAnnotations"), text))
		return errs
	}
	sc.quiet = true
	messages := env.Within(sc.scope(len(stored) > 0))
	for i := range s.Validations {
		errs = append(errs, validateValidation(&s.Validations[i], env, messages, path.Child("validations").Index(i))...)
	}
	return append(errs, validateAnnotations(p.Name, s.AuditAnnotations, env, path.Child("auditAnnotations"))...)
}

func validateHead(f *admissionv1.FailurePolicyType, k *admissionv1.ParamKind, m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if f == nil {
		errs = append(errs, field.Required(path.Child("failurePolicy"), ""))
	} else {
		errs = append(errs, check.OneOf(*f, path.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	}
	if k != nil {
		errs = append(errs, validateParamKind(k, path.Child("paramKind"))...)
	}
	at := path.Child("matchConstraints")
	if m == nil {
		return append(errs, field.Required(at, ""))
	}
	errs = append(errs, validateMatch(m, at)...)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(at.Child("resourceRules"), ""))
	}
	return errs
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if k.APIVersion == "" {
		errs = append(errs, field.Required(path.Child("apiVersion"), ""))
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), k.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			errs = append(errs, check.Subdomain(gv.Group, path.Child("apiVersion"))...)
		}
		errs = append(errs, check.Each(path.Child("apiVersion"), gv.Version, validation.IsDNS1035Label(gv.Version))...)
	}
	if k.Kind == "" {
		return append(errs, field.Required(path.Child("kind"), ""))
	}
	if msgs := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

var reasons = []metav1.StatusReason{
	metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge,
}

func validateValidation(v *admissionv1.Validation, env, messages *expression.Env, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	text := strings.TrimSpace(v.Expression)
	if text == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, compiles(env, v.Expression, path.Child("expression"), expression.Bool)...)
	}
	if m := strings.TrimSpace(v.MessageExpression); v.MessageExpression != "" && m == "" {
		errs = append(errs, field.Invalid(path.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	} else if m != "" {
		errs = append(errs, compiles(messages, v.MessageExpression, path.Child("messageExpression"), expression.String)...)
	}
	msg := strings.TrimSpace(v.Message)
	switch {
	case v.Message != "" && msg == "":
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(msg, "\n\r"):
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	if v.Reason != nil && !slices.Contains(reasons, *v.Reason) {
		errs = append(errs, field.NotSupported(path.Child("reason"), *v.Reason, reasons))
	}
	return errs
}

func validateAnnotations(policy string, list []admissionv1.AuditAnnotation, env *expression.Env, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(path, shownAnnotations(list), "must not have more than 20 auditAnnotations"))
	}
	seen := map[string]bool{}
	for i := range list {
		a, at := &list[i], path.Index(i)
		full := policy + "/" + a.Key
		if policy == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, check.Each(at.Child("key"), full, validation.IsQualifiedName(full))...)
		}
		switch text := strings.TrimSpace(a.ValueExpression); {
		case text == "":
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		case len(text) > maxValueExpression:
			errs = append(errs, field.Required(at.Child("valueExpression"), "must not exceed 5120 bytes in length"))
		default:
			for _, err := range compiles(env, text, at.Child("valueExpression"), expression.String, expression.Null) {
				err.BadValue = a.ValueExpression
				errs = append(errs, err)
			}
		}
		if seen[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		seen[a.Key] = true
	}
	return errs
}

// shownAnnotations are annotations as clients see them in an error.
func shownAnnotations(list []admissionv1.AuditAnnotation) any {
	type shown struct{ Key, ValueExpression string }
	out := make([]shown, len(list))
	for i, a := range list {
		out[i] = shown(a)
	}
	return out
}

func validateValidatingBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	s, path := &b.Spec, field.NewPath("spec")
	errs := validateBinding(s.PolicyName, s.ParamRef, s.MatchResources, path)
	at := path.Child("validationActions")
	if len(s.ValidationActions) == 0 {
		return append(errs, field.Required(at, "at least one validation action is required"))
	}
	seen := map[admissionv1.ValidationAction]bool{}
	for i, a := range s.ValidationActions {
		errs = append(errs, check.OneOf(a, at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if seen[a] {
			errs = append(errs, field.Duplicate(at.Index(i), a))
		}
		seen[a] = true
	}
	if seen[admissionv1.Deny] && seen[admissionv1.Warn] {
		errs = append(errs, field.Invalid(at, s.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func validateMutatingBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, path)
	return append(errs, changeable(b.Spec.MatchResources, path.Child("matchResources"))...)
}

func validateBinding(policy string, ref *admissionv1.ParamRef, m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, check.Subdomain(policy, path.Child("policyName"))...)
	}
	if ref != nil {
		errs = append(errs, validateParamRef(ref, path.Child("paramRef"))...)
	}
	if m != nil {
		errs = append(errs, validateMatch(m, path.Child("matchResources"))...)
	}
	return errs
}

func validateParamRef(r *admissionv1.ParamRef, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case r.Name != "":
		for _, m := range pathsegment.IsValidPathSegmentName(r.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), r.Name, m))
		}
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), "name and selector are mutually exclusive"))
		}
	case r.Selector == nil:
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	if r.Selector != nil {
		errs = append(errs, selector(r.Selector, path.Child("selector"))...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), "name and selector are mutually exclusive"))
		}
	}
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(path.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, check.OneOf(*r.ParameterNotFoundAction, path.Child("parameterNotFoundAction"), admissionv1.DenyAction, admissionv1.AllowAction)...)
}

func validateMutatingPolicy(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	var stored map[string]bool
	if old != nil {
		stored = mutatingExpressions(&old.Spec)
	}
	sc := scopes{params: s.ParamKind != nil, variables: true}
	errs := validateHead(s.FailurePolicy, s.ParamKind, s.MatchConstraints, path)
	errs = append(errs, changeable(s.MatchConstraints, path.Child("matchConstraints"))...)
	errs = append(errs, validateConditions(s.MatchConditions, sc, stored, path.Child("matchConditions"))...)
	env, more := validateVariables(s.Variables, sc, stored, path.Child("variables"))
	errs = append(errs, more...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	sc.mutation = true
	env = env.Within(sc.scope(len(stored) > 0))
	for i := range s.Mutations {
		errs = append(errs, validateMutation(&s.Mutations[i], env, path.Child("mutations").Index(i))...)
	}
	if s.ReinvocationPolicy == "" {
		return append(errs, field.Required(path.Child("reinvocationPolicy"), ""))
	}
	return append(errs, reinvocation(s.ReinvocationPolicy, path)...)
}

func validateMutation(m *admissionv1.Mutation, env *expression.Env, path *field.Path) field.ErrorList {
	apply, patch := path.Child("applyConfiguration"), path.Child("jsonPatch")
	const only = "must not be specified when patchType is "
	var errs field.ErrorList
	switch m.PatchType {
	case "":
		return field.ErrorList{field.Required(path.Child("patchType"), "")}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patch, "{jsonPatch}", only+"ApplyConfiguration"))
		}
		if len(errs) > 0 {
			return errs
		}
		return mutates(env, m.ApplyConfiguration.Expression, apply.Child("expression"), expression.ObjectType)
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(patch, "must be specified when patchType is JSONPatch"))
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", only+"JSONPatch"))
		}
		if len(errs) > 0 {
			return errs
		}
		return mutates(env, m.JSONPatch.Expression, patch.Child("expression"), expression.PatchType)
	}
	return check.OneOf(m.PatchType, path.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
}

// mutates refuses an expression that makes no change of the kind asked for.
func mutates(env *expression.Env, text string, path *field.Path, want *cel.Type) field.ErrorList {
	if text = strings.TrimSpace(text); text == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return compiles(env, text, path, want)
}

// changeable refuses operations that leave nothing to change.
func changeable(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for i := range m.ResourceRules {
		for _, op := range m.ResourceRules[i].Operations {
			errs = append(errs, check.OneOf(op, path.Child("resourceRules", "operations"), admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update)...)
		}
	}
	return errs
}

func validateStatus(s *admissionv1.ValidatingAdmissionPolicyStatus) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if t := s.TypeChecking; t != nil {
		for i, w := range t.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			if w.FieldRef == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			}
		}
	}
	return append(errs, metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}
