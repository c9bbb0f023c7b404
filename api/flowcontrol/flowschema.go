package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

var flowSchemaParts = api.SpecStatus(func(o *flowcontrolv1.FlowSchema) (*flowcontrolv1.FlowSchemaSpec, *flowcontrolv1.FlowSchemaStatus) {
	return &o.Spec, &o.Status
})

func flowSchemaKind() *api.Kind {
	gvk := flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema")
	return &api.Kind{
		Hub: gvk, HubListKind: "FlowSchemaList",
		Resource: "flowschemas", Singular: "flowschema",
		Prefix: "flowschemas",
		New:    api.New[flowcontrolv1.FlowSchema](), NewList: api.New[flowcontrolv1.FlowSchemaList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(func(s *flowcontrolv1.FlowSchema) {
				api.DefaultValue(&s.Spec.MatchingPrecedence, 1000)
			}),
			PrepareCreate: flowSchemaParts.PrepareCreate, PrepareUpdate: flowSchemaParts.PrepareUpdate,
			Validate:       api.Check(validateFlowSchema),
			ValidateUpdate: api.Check2(func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateFlowSchema(s) }),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				Resets:        []string{"spec", "metadata"},
				PrepareUpdate: flowSchemaParts.PrepareStatus,
				ValidateUpdate: api.Check2(func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
					seen := map[flowcontrolv1.FlowSchemaConditionType]bool{}
					var errs field.ErrorList
					for i, c := range s.Status.Conditions {
						errs = append(errs, validateCondition(i, c.Type, seen)...)
					}
					return errs
				}),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			printing.String("MatchingPrecedence", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["matchingPrecedence"]),
			printing.String("DistinguisherMethod", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["distinguisherMethod"]),
			printing.AgeColumn(),
			printing.String("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Cells: api.Cells(func(s *flowcontrolv1.FlowSchema) []any {
			method, missing := printing.None, "?"
			if m := s.Spec.DistinguisherMethod; m != nil {
				method = string(m.Type)
			}
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					missing = string(c.Status)
				}
			}
			return []any{
				s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method,
				printing.Age(s.CreationTimestamp), missing,
			}
		}),
	}
}

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	p, at := s.Spec.MatchingPrecedence, path.Child("matchingPrecedence")
	if p <= 0 {
		errs = append(errs, field.Invalid(at, p, "must be a positive value"))
	}
	if p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		errs = append(errs, field.Invalid(at, p, "must not be greater than 10000"))
	}
	if p == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(at, p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := s.Spec.DistinguisherMethod; m != nil {
		if t := m.Type; t != flowcontrolv1.FlowDistinguisherMethodByNamespaceType && t != flowcontrolv1.FlowDistinguisherMethodByUserType {
			errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), check.Shown(*m), []flowcontrolv1.FlowDistinguisherMethodType{
				flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType,
			}))
		}
	}
	name := path.Child("priorityLevelConfiguration", "name")
	if n := s.Spec.PriorityLevelConfiguration.Name; n == "" {
		errs = append(errs, field.Required(name, "must reference a priority level"))
	} else {
		errs = append(errs, check.Each(name, n, validation.IsDNS1123Subdomain(n))...)
	}
	for i := range s.Spec.Rules {
		errs = append(errs, validateRules(&s.Spec.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}
