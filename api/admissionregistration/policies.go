package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

var policyParts = api.SpecStatus(func(o *admissionv1.ValidatingAdmissionPolicy) (*admissionv1.ValidatingAdmissionPolicySpec, *admissionv1.ValidatingAdmissionPolicyStatus) {
	return &o.Spec, &o.Status
})

func validatingPolicyKind() *api.Kind {
	k := row("ValidatingAdmissionPolicy", "validatingadmissionpolicies", "validatingadmissionpolicy")
	k.New, k.NewList = api.New[admissionv1.ValidatingAdmissionPolicy](), api.New[admissionv1.ValidatingAdmissionPolicyList]()
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       api.On(defaultValidatingPolicy),
		PrepareCreate: policyParts.PrepareCreate, PrepareUpdate: policyParts.PrepareUpdate,
		Validate: api.Check(func(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(p, nil)
		}),
		ValidateUpdate: api.Check2(func(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(p, old)
		}),
	}
	k.Subresources = map[string]api.Subresource{"status": {Object: &api.Strategy{
		ForbidUnconditionalUpdate: true,
		Resets:                    []string{"spec", "metadata"},
		Default:                   api.On(defaultValidatingPolicy), PrepareUpdate: policyParts.PrepareStatus,
		ValidateUpdate: api.Check2(func(p, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateStatus(&p.Status)
		}),
	}}}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(), printing.Integer("Validations", "Validations indicates the number of validation rules defined in this configuration"), printing.String("ParamKind", paramKindDoc), printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(p *admissionv1.ValidatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), printing.Age(p.CreationTimestamp)}
	})
	return k
}

const paramKindDoc = "ParamKind specifies the kind of resources used to parameterize this policy"

func validatingBindingKind() *api.Kind {
	k := row("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding")
	k.New, k.NewList = api.New[admissionv1.ValidatingAdmissionPolicyBinding](), api.New[admissionv1.ValidatingAdmissionPolicyBindingList]()
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       api.On(func(b *admissionv1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) }),
		PrepareCreate: api.On(func(b *admissionv1.ValidatingAdmissionPolicyBinding) { b.Generation = 1 }),
		PrepareUpdate: api.On2(func(b, old *admissionv1.ValidatingAdmissionPolicyBinding) {
			api.CountGeneration(b, old, b.Spec, old.Spec)
		}),
		Validate: api.Check(validateValidatingBinding),
		ValidateUpdate: api.Check2(func(b, _ *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			return validateValidatingBinding(b)
		}),
	}
	k.Columns = bindingColumns()
	k.Cells = api.Cells(func(b *admissionv1.ValidatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), printing.Age(b.CreationTimestamp)}
	})
	return k
}

func mutatingPolicyKind() *api.Kind {
	k := row("MutatingAdmissionPolicy", "mutatingadmissionpolicies", "mutatingadmissionpolicy")
	k.New, k.NewList = api.New[admissionv1.MutatingAdmissionPolicy](), api.New[admissionv1.MutatingAdmissionPolicyList]()
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       api.On(defaultMutatingPolicy),
		PrepareCreate: api.On(func(p *admissionv1.MutatingAdmissionPolicy) { p.Generation = 1 }),
		PrepareUpdate: api.On2(func(p, old *admissionv1.MutatingAdmissionPolicy) {
			api.CountGeneration(p, old, p.Spec, old.Spec)
		}),
		Validate: api.Check(func(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			return validateMutatingPolicy(p, nil)
		}),
		ValidateUpdate: api.Check2(func(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			return validateMutatingPolicy(p, old)
		}),
	}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(), printing.Integer("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"), printing.String("ParamKind", paramKindDoc), printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(p *admissionv1.MutatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), printing.Age(p.CreationTimestamp)}
	})
	return k
}

func mutatingBindingKind() *api.Kind {
	k := row("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding")
	k.New, k.NewList = api.New[admissionv1.MutatingAdmissionPolicyBinding](), api.New[admissionv1.MutatingAdmissionPolicyBindingList]()
	k.Strategy = api.Strategy{
		AnyFinalizer: true, ForbidUnconditionalUpdate: true,
		Default:       api.On(func(b *admissionv1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) }),
		PrepareCreate: api.On(func(b *admissionv1.MutatingAdmissionPolicyBinding) { b.Generation = 1 }),
		PrepareUpdate: api.On2(func(b, old *admissionv1.MutatingAdmissionPolicyBinding) {
			api.CountGeneration(b, old, b.Spec, old.Spec)
		}),
		Validate: api.Check(validateMutatingBinding),
		ValidateUpdate: api.Check2(func(b, _ *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return validateMutatingBinding(b)
		}),
	}
	k.Columns = bindingColumns()
	k.Cells = api.Cells(func(b *admissionv1.MutatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), printing.Age(b.CreationTimestamp)}
	})
	return k
}
