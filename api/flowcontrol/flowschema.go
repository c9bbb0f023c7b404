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
			"status": {Object: &api.Strategy{PrepareUpdate: flowSchemaParts.PrepareStatus}},
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
		errs = append(errs, check.OneOf(m.Type, path.Child("distinguisherMethod"), flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
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

func validateRules(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		rule, at := &r.ResourceRules[i], path.Child("resourceRules").Index(i)
		for _, l := range []struct {
			name, what string
			values     []string
		}{{"verbs", "verbs must contain at least one value", rule.Verbs}, {"apiGroups", "resource rules must supply at least one api group", rule.APIGroups}, {"resources", "resource rules must supply at least one resource", rule.Resources}} {
			if len(l.values) == 0 {
				errs = append(errs, field.Required(at.Child(l.name), l.what))
			}
		}
		if len(rule.Namespaces) == 0 && !rule.ClusterScope {
			errs = append(errs, field.Required(at.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace"))
		}
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], path.Child("nonResourceRules").Index(i)
		if len(rule.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(rule.NonResourceURLs) == 0 {
			errs = append(errs, field.Required(at.Child("nonResourceURLs"), "nonResourceURLs must contain at least one value"))
		}
	}
	return errs
}

func validateSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	required := func(child string, ok bool, what string) field.ErrorList {
		if ok {
			return nil
		}
		return field.ErrorList{field.Required(path.Child(child), what)}
	}
	switch s.Kind {
	case flowcontrolv1.SubjectKindUser:
		return required("user", s.User != nil && s.User.Name != "", "user is required when subject kind is 'User'")
	case flowcontrolv1.SubjectKindGroup:
		return required("group", s.Group != nil && s.Group.Name != "", "group is required when subject kind is 'Group'")
	case flowcontrolv1.SubjectKindServiceAccount:
		return required("serviceAccount", s.ServiceAccount != nil && s.ServiceAccount.Name != "" && s.ServiceAccount.Namespace != "", "serviceAccount is required when subject kind is 'ServiceAccount'")
	}
	return field.ErrorList{field.NotSupported(path.Child("kind"), s.Kind, []flowcontrolv1.SubjectKind{
		flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser,
	})}
}
