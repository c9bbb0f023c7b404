package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func webhookColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{printing.Name(), printing.Integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), printing.AgeColumn()}
}

func mutatingWebhookKind() *api.Kind {
	k := row("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration")
	k.New, k.NewList = api.New[admissionv1.MutatingWebhookConfiguration](), api.New[admissionv1.MutatingWebhookConfigurationList]()
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       api.On(defaultMutating),
		PrepareCreate: api.On(func(c *admissionv1.MutatingWebhookConfiguration) { c.Generation = 1 }),
		PrepareUpdate: api.On2(func(c, old *admissionv1.MutatingWebhookConfiguration) {
			api.CountGeneration(c, old, c.Webhooks, old.Webhooks)
		}),
		Validate: api.Check(func(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			return validateWebhooks(mutating(c), nil)
		}),
		ValidateUpdate: api.Check2(func(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			return validateWebhooks(mutating(c), mutating(old))
		}),
	}
	k.Columns = webhookColumns()
	k.Cells = api.Cells(func(c *admissionv1.MutatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), printing.Age(c.CreationTimestamp)}
	})
	return k
}

func validatingWebhookKind() *api.Kind {
	k := row("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "validatingwebhookconfiguration")
	k.New, k.NewList = api.New[admissionv1.ValidatingWebhookConfiguration](), api.New[admissionv1.ValidatingWebhookConfigurationList]()
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       api.On(defaultValidating),
		PrepareCreate: api.On(func(c *admissionv1.ValidatingWebhookConfiguration) { c.Generation = 1 }),
		PrepareUpdate: api.On2(func(c, old *admissionv1.ValidatingWebhookConfiguration) {
			api.CountGeneration(c, old, c.Webhooks, old.Webhooks)
		}),
		Validate: api.Check(func(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			return validateWebhooks(validating(c), nil)
		}),
		ValidateUpdate: api.Check2(func(c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			return validateWebhooks(validating(c), validating(old))
		}),
	}
	k.Columns = webhookColumns()
	k.Cells = api.Cells(func(c *admissionv1.ValidatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), printing.Age(c.CreationTimestamp)}
	})
	return k
}

// validating shows webhooks in the wider type, which has all their fields.
func validating(c *admissionv1.ValidatingWebhookConfiguration) []admissionv1.MutatingWebhook {
	out := make([]admissionv1.MutatingWebhook, len(c.Webhooks))
	for i, w := range c.Webhooks {
		out[i] = admissionv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}
	}
	return out
}

func mutating(c *admissionv1.MutatingWebhookConfiguration) []admissionv1.MutatingWebhook {
	return c.Webhooks
}
