// Package apiregistration holds the row of APIService: objects go in,
// defaulted, prepared, judged and printed ones come out.
package apiregistration

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

// Kinds returns the group's rows, new ones with every call.
func Kinds() []*api.Kind { return []*api.Kind{apiServiceKind()} }

func apiServiceKind() *api.Kind {
	gvk := apiregistrationv1.SchemeGroupVersion.WithKind("APIService")
	return &api.Kind{
		Hub: gvk, HubListKind: "APIServiceList", Resource: "apiservices", Singular: "apiservice",
		Categories: []string{"api-extensions"}, Prefix: "apiregistration.k8s.io/apiservices", StoredJSON: true,
		New: api.New[apiregistrationv1.APIService](), NewList: api.New[apiregistrationv1.APIServiceList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			ForbidUnconditionalUpdate: true,
			AnyFinalizer:              true,
			Default: api.On(func(s *apiregistrationv1.APIService) {
				if r := s.Spec.Service; r != nil {
					api.DefaultPtr(&r.Port, 443)
				}
			}),
			PrepareCreate: api.On(func(s *apiregistrationv1.APIService) {
				s.Status = apiregistrationv1.APIServiceStatus{}
				if s.Spec.Service == nil {
					s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
						Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, LastTransitionTime: metav1.Now(),
						Reason: "Local", Message: "Local APIServices are always available",
					}}
				}
			}),
			PrepareUpdate: api.On2(func(s, old *apiregistrationv1.APIService) { s.Status = *old.Status.DeepCopy() }),
			Validate:      api.Check(validate),
			ValidateUpdate: api.Check2(func(s, _ *apiregistrationv1.APIService) field.ErrorList {
				return validate(s)
			}),
			ValidateName: func(string, bool) []string { return nil }, // "v1." is one
		},
		Subresources: map[string]api.Subresource{"status": {Untabled: true, Object: &api.Strategy{
			ForbidUnconditionalUpdate: true,
			Resets:                    []string{"spec", "metadata"},
			PrepareUpdate: api.On2(func(s, old *apiregistrationv1.APIService) {
				s.Spec, s.Labels, s.Annotations, s.Finalizers, s.OwnerReferences = *old.Spec.DeepCopy(), old.Labels, old.Annotations, old.Finalizers, old.OwnerReferences
			}),
			ValidateUpdate: api.Check2(func(s, _ *apiregistrationv1.APIService) field.ErrorList { return validateStatus(&s.Status) }),
		}}},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(), printing.String("Service", "The reference to the service that hosts this API endpoint."),
			printing.String("Available", "Whether this service is available."), printing.AgeColumn(),
		},
		Cells: api.Cells(cells),
	}
}

func cells(s *apiregistrationv1.APIService) []any {
	service, available := "Local", "Unknown"
	if r := s.Spec.Service; r != nil {
		service = r.Namespace + "/" + r.Name
	}
	for _, c := range s.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			if available = string(c.Status); c.Status != apiregistrationv1.ConditionTrue {
				available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
			}
		}
	}
	return []any{s.Name, service, available, printing.Age(s.CreationTimestamp)}
}

func validate(s *apiregistrationv1.APIService) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if want := s.Spec.Version + "." + s.Spec.Group; s.Name != want && s.Name != "" {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), s.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
	}
	if g := s.Spec.Group; g == "" && (s.Spec.Version != "v1" || s.Spec.Service != nil) {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	} else if g != "" {
		for _, m := range validation.IsDNS1123Subdomain(g) {
			errs = append(errs, field.Invalid(path.Child("group"), g, m))
		}
	}
	for _, m := range validation.IsDNS1035Label(s.Spec.Version) {
		errs = append(errs, field.Invalid(path.Child("version"), s.Spec.Version, m))
	}
	if p := s.Spec.GroupPriorityMinimum; p <= 0 || p > 20000 {
		errs = append(errs, field.Invalid(path.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := s.Spec.VersionPriority; p <= 0 || p > 1000 {
		errs = append(errs, field.Invalid(path.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	r := s.Spec.Service
	if r == nil {
		if len(s.Spec.CABundle) != 0 {
			errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.Spec.CABundle)), "local APIServices may not have a caBundle"))
		}
		if s.Spec.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	if r.Namespace == "" {
		errs = append(errs, field.Required(path.Child("service", "namespace"), ""))
	}
	if r.Name == "" {
		errs = append(errs, field.Required(path.Child("service", "name"), ""))
	}
	if r.Port != nil {
		if msgs := validation.IsValidPortNum(int(*r.Port)); msgs != nil {
			errs = append(errs, field.Invalid(path.Child("service", "port"), *r.Port, "port is not valid: "+strings.Join(msgs, ", ")))
		}
	}
	if s.Spec.InsecureSkipTLSVerify && len(s.Spec.CABundle) > 0 {
		errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

func validateStatus(s *apiregistrationv1.APIServiceStatus) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "conditions")
	for i, c := range s.Conditions {
		switch c.Status {
		case apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown:
		default:
			errs = append(errs, field.NotSupported(path.Index(i).Child("status"), c.Status, []string{"True", "False", "Unknown"}))
		}
	}
	return errs
}
