package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
)

func defaultRule(r *admissionv1.Rule) { api.DefaultPtr(&r.Scope, admissionv1.AllScopes) }

func defaultRules(rules []admissionv1.RuleWithOperations) {
	for i := range rules {
		defaultRule(&rules[i].Rule)
	}
}

func defaultSelector(s **metav1.LabelSelector) {
	if *s == nil {
		*s = &metav1.LabelSelector{}
	}
}

func defaultClient(c *admissionv1.WebhookClientConfig) {
	if c.Service != nil {
		api.DefaultPtr(&c.Service.Port, 443)
	}
}

func defaultMutating(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		api.DefaultPtr(&w.FailurePolicy, admissionv1.Fail)
		api.DefaultPtr(&w.MatchPolicy, admissionv1.Equivalent)
		defaultSelector(&w.NamespaceSelector)
		defaultSelector(&w.ObjectSelector)
		api.DefaultPtr(&w.TimeoutSeconds, 10)
		api.DefaultPtr(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		defaultClient(&w.ClientConfig)
		defaultRules(w.Rules)
	}
}

func defaultValidating(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		api.DefaultPtr(&w.FailurePolicy, admissionv1.Fail)
		api.DefaultPtr(&w.MatchPolicy, admissionv1.Equivalent)
		defaultSelector(&w.NamespaceSelector)
		defaultSelector(&w.ObjectSelector)
		api.DefaultPtr(&w.TimeoutSeconds, 10)
		defaultClient(&w.ClientConfig)
		defaultRules(w.Rules)
	}
}

func defaultMatch(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	api.DefaultPtr(&m.MatchPolicy, admissionv1.Equivalent)
	defaultSelector(&m.NamespaceSelector)
	defaultSelector(&m.ObjectSelector)
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			defaultRule(&rules[i].Rule)
		}
	}
}

func defaultValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) {
	api.DefaultPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultMutatingPolicy(p *admissionv1.MutatingAdmissionPolicy) {
	api.DefaultPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}
