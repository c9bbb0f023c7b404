package admissionregistration

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func to[T any](v T) *T { return &v }

func webhook(change func(*admissionv1.MutatingWebhook)) *admissionv1.MutatingWebhookConfiguration {
	w := admissionv1.MutatingWebhook{
		Name: "a.example.com", ClientConfig: admissionv1.WebhookClientConfig{URL: to("https://example.com/x")},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"CREATE"}, Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"},
		}}},
		SideEffects: to(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	c := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Webhooks: []admissionv1.MutatingWebhook{w}}
	defaultMutating(c)
	return c
}

func TestWebhooks(t *testing.T) {
	type hook = admissionv1.MutatingWebhook
	cases := []struct {
		name   string
		change func(*hook)
		want   string // in the only error; "" is none
	}{
		{"valid", nil, ""},
		{"short name", func(w *hook) { w.Name = "a.b" }, "webhooks[0].name: Invalid value"},
		{"no side effects", func(w *hook) { w.SideEffects = nil }, "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"},
		{"side effects", func(w *hook) { w.SideEffects = to(admissionv1.SideEffectClassSome) }, `webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`},
		{"no versions", func(w *hook) { w.AdmissionReviewVersions = nil }, "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"},
		{"other versions", func(w *hook) { w.AdmissionReviewVersions = []string{"v3"} }, "must include at least one of v1, v1beta1"},
		{"timeout", func(w *hook) { w.TimeoutSeconds = to(int32(31)) }, "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"},
		{"url and service", func(w *hook) { w.ClientConfig.Service = &admissionv1.ServiceReference{} }, "webhooks[0].clientConfig: Required value: exactly one of url or service is required"},
		{"http", func(w *hook) { w.ClientConfig.URL = to("http://example.com") }, "'https' is the only allowed URL scheme; desired format: https://host[/path]"},
		{"star among groups", func(w *hook) { w.Rules[0].APIGroups = []string{"*", "apps"} }, "if '*' is present, must not specify other API groups"},
		{"star among resources", func(w *hook) { w.Rules[0].Resources = []string{"*", "pods"} }, "if '*' is present, must not specify other resources without subresources"},
		{"star and subresources", func(w *hook) { w.Rules[0].Resources = []string{"*", "pods/log", "*/scale"} }, ""},
		{"all and others", func(w *hook) { w.Rules[0].Resources = []string{"*/*", "pods"} }, "if '*/*' is present, must not specify other resources"},
		{"operation", func(w *hook) { w.Rules[0].Operations = []admissionv1.OperationType{"GET"} }, `webhooks[0].rules[0].operations[0]: Unsupported value: "GET"`},
		{"condition", func(w *hook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "object.x == 1 && request.userInfo.username != 'a' && authorizer.group('').resource('pods').check('get').allowed()"}}
		}, ""},
		{"condition of another type", func(w *hook) { w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "1"}} },
			"webhooks[0].matchConditions[0].expression: Invalid value: \"1\": must evaluate to bool"},
		{"condition with params", func(w *hook) { w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "params.x"}} }, "undeclared reference to 'params'"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			errs := validateWebhooks(mutating(webhook(c.change)), nil)
			if c.want == "" && len(errs) > 0 || c.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want)) {
				t.Errorf("got %v, want %q", errs, c.want)
			}
		})
	}
}

func TestWebhookDefaults(t *testing.T) {
	w := webhook(nil).Webhooks[0]
	if *w.FailurePolicy != admissionv1.Fail || *w.MatchPolicy != admissionv1.Equivalent || *w.TimeoutSeconds != 10 ||
		*w.ReinvocationPolicy != admissionv1.NeverReinvocationPolicy || w.NamespaceSelector == nil || w.ObjectSelector == nil || *w.Rules[0].Scope != admissionv1.AllScopes {
		t.Errorf("defaults are %+v", w)
	}
}

func TestPolicies(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicySpec
	cases := []struct {
		name   string
		change func(*spec)
		want   string
	}{
		{"valid", func(*spec) {}, ""},
		{"nothing to do", func(s *spec) { s.Validations = nil }, "must contain at least one item"},
		{"no constraints", func(s *spec) { s.MatchConstraints = nil }, "spec.matchConstraints: Required value"},
		{"no expression", func(s *spec) { s.Validations[0].Expression = " " }, "spec.validations[0].expression: Required value: expression is not specified"},
		{"line break", func(s *spec) { s.Validations[0].Expression = "true &&\ntrue" }, ""},
		{"not a truth", func(s *spec) { s.Validations[0].Expression = "1" }, `Invalid value: "1": must evaluate to bool but got int`},
		{"reason unauthorized", func(s *spec) { s.Validations[0].Reason = to(metav1.StatusReasonUnauthorized) }, "spec.validations[0].reason: Unsupported value"},
		{"variables in conditions", func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "true"}}
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "x", Expression: "variables.a"}}
		}, "undeclared reference to 'variables'"},
		{"namespace in conditions", func(s *spec) {
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "x", Expression: "namespaceObject.metadata.name == 'a'"}}
		}, ""},
		{"annotation without key", func(s *spec) {
			s.AuditAnnotations = []admissionv1.AuditAnnotation{{ValueExpression: "'x'"}}
		}, `spec.auditAnnotations[0].key: Invalid value: "p/": name part must be non-empty`},
		{"reason", func(s *spec) { s.Validations[0].Reason = to(metav1.StatusReasonConflict) }, "spec.validations[0].reason: Unsupported value"},
		{"variables in order", func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "1"}, {Name: "b", Expression: "variables.a + 1"}}
			s.Validations[0].Expression = "variables.b == 2"
		}, ""},
		{"variable of another type", func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "1"}}
			s.Validations[0].Expression = "variables.a == 'x'"
		}, "found no matching overload"},
		{"unknown variable", func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "1"}}
			s.Validations[0].Expression = "variables.z"
		}, "undefined field 'z'"},
		{"no variables", func(s *spec) { s.Validations[0].Expression = "variables.z" }, "undeclared reference to 'variables'"},
		{"variable that does not compile", func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "1 +"}, {Name: "b", Expression: "variables.a"}}
			s.Validations[0].Expression = "variables.b"
		}, "Syntax error"},
		{"variable that could be anything", func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "[authorizer]"}}
			s.Validations[0].Expression = "variables.a"
		}, "must evaluate to bool but got list(dyn)"},
		{"reserved word", func(s *spec) { s.Variables = []admissionv1.Variable{{Name: "namespace", Expression: "1"}} }, "must be a valid CEL identifier"},
		{"no known type", func(s *spec) { s.Validations[0].Expression = "object.x" }, "must evaluate to bool but got dyn"},
		{"message that asks", func(s *spec) { s.Validations[0].MessageExpression = "authorizer.path('/x').check('get').reason()" }, "undeclared reference to 'authorizer'"},
		{"spaces around a condition", func(s *spec) {
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: " 1 "}}
		}, `Invalid value: "1": must evaluate to bool`},
		{"version of params", func(s *spec) { s.ParamKind = &admissionv1.ParamKind{APIVersion: "g/V1!", Kind: "K"} }, `spec.paramKind.apiVersion: Invalid value: "V1!"`},
		{"empty rule", func(s *spec) { s.MatchConstraints.ResourceRules = []admissionv1.NamedRuleWithOperations{{}} }, "resourceRules[0].operations: Required value"},
		{"variable's name", func(s *spec) { s.Variables = []admissionv1.Variable{{Name: "a-b", Expression: "1"}} }, "must be a valid CEL identifier"},
		{"params without kind", func(s *spec) { s.Validations[0].Expression = "params.x" }, "undeclared reference to 'params'"},
		{"params", func(s *spec) {
			s.ParamKind, s.Validations[0].Expression = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, "params.x == 1"
		}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec{
				MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: webhook(nil).Webhooks[0].Rules[0]}}},
				Validations:      []admissionv1.Validation{{Expression: "true"}},
			}}
			c.change(&p.Spec)
			defaultValidatingPolicy(p)
			errs := validateValidatingPolicy(p, nil)
			if c.want == "" && len(errs) > 0 || c.want != "" && (len(errs) == 0 || !strings.Contains(errs[0].Error(), c.want)) {
				t.Errorf("got %v, want %q", errs, c.want)
			}
		})
	}
}

func TestMutatingPolicies(t *testing.T) {
	apply := admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: "Object{}"}}
	patch := func(text string) *admissionv1.JSONPatch { return &admissionv1.JSONPatch{Expression: text} }
	both := apply
	both.JSONPatch = patch("[]")
	rule := webhook(nil).Webhooks[0].Rules[0]
	deletes := rule
	deletes.Operations = []admissionv1.OperationType{admissionv1.Delete}
	cases := []struct {
		name     string
		mutation admissionv1.Mutation
		rule     admissionv1.RuleWithOperations
		want     string
	}{
		{"valid", apply, rule, ""},
		{"both", both, rule, `spec.mutations[0].jsonPatch: Invalid value: "{jsonPatch}": must not be specified when patchType is ApplyConfiguration`},
		{"neither", admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch}, rule, "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"},
		{"empty", admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: patch("")}, rule, "spec.mutations[0].jsonPatch.expression: Required value"},
		{"another type", admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: patch("'x'")}, rule, "must evaluate to list(JSONPatch) but got string"},
		{"no known type", admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: patch(" object ")}, rule, `Invalid value: "object": must evaluate to list(JSONPatch) but got dyn`},
		{"unknown variable", admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: patch("variables.x")}, rule, "undefined field 'x'"},
		{"nothing to change", apply, deletes, `spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`},
	}
	for _, c := range cases {
		p := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy: to(admissionv1.Fail), ReinvocationPolicy: admissionv1.NeverReinvocationPolicy, Mutations: []admissionv1.Mutation{c.mutation},
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: c.rule}}},
		}}
		p.Spec.MatchConstraints.MatchPolicy = to(admissionv1.Equivalent)
		p.Spec.MatchConstraints.NamespaceSelector, p.Spec.MatchConstraints.ObjectSelector = &metav1.LabelSelector{}, &metav1.LabelSelector{}
		errs := validateMutatingPolicy(p, nil)
		if c.want == "" && len(errs) > 0 || c.want != "" && (len(errs) == 0 || !strings.Contains(errs[0].Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, errs, c.want)
		}
	}
}

func TestBindings(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicyBindingSpec
	deny := []admissionv1.ValidationAction{admissionv1.Deny}
	cases := []struct {
		name string
		spec spec
		want string
	}{
		{"valid", spec{PolicyName: "p", ValidationActions: deny}, ""},
		{"no policy", spec{ValidationActions: deny}, "spec.policyName: Required value"},
		{"no action", spec{PolicyName: "p"}, "spec.validationActions: Required value"},
		{"deny and warn", spec{PolicyName: "p", ValidationActions: append(deny, admissionv1.Warn)}, "must not contain both Deny and Warn"},
		{"no action without params", spec{PolicyName: "p", ValidationActions: deny, ParamRef: &admissionv1.ParamRef{Name: "x"}}, "spec.paramRef.parameterNotFoundAction: Required value"},
		{"name and selector", spec{PolicyName: "p", ValidationActions: deny, ParamRef: &admissionv1.ParamRef{
			Name: "x", Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: to(admissionv1.DenyAction),
		}}, "name and selector are mutually exclusive"},
	}
	for _, c := range cases {
		errs := validateValidatingBinding(&admissionv1.ValidatingAdmissionPolicyBinding{Spec: c.spec})
		if c.want == "" && len(errs) > 0 || c.want != "" && (len(errs) == 0 || !strings.Contains(errs[0].Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, errs, c.want)
		}
	}
}

// Only mutations may make objects and patches.
func TestMutationTypes(t *testing.T) {
	p := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
		Variables:       []admissionv1.Variable{{Name: "v", Expression: "Object{}"}},
		MatchConditions: []admissionv1.MatchCondition{{Name: "c", Expression: "JSONPatch{} == JSONPatch{}"}},
	}}
	var got []string
	for _, err := range validateMutatingPolicy(p, nil) {
		if strings.Contains(err.Detail, "undeclared reference") {
			got = append(got, err.Field)
		}
	}
	if want := "spec.matchConditions[0].expression spec.variables[0].expression"; strings.Join(got, " ") != want {
		t.Errorf("undeclared in %v, want %s", got, want)
	}
}
