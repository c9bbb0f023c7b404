package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

// The priorities of users' classes end where those of the system's begin.
const (
	highestUserPriority = 1_000_000_000
	systemCritical      = 2 * highestUserPriority
	systemPrefix        = "system-"
)

// systemClasses are the names with the system's prefix that may be used, with
// their values.
func systemClasses() map[string]int32 {
	return map[string]int32{"system-node-critical": systemCritical + 1000, "system-cluster-critical": systemCritical}
}

func priorityClassKind() *api.Kind {
	gvk := schedulingv1.SchemeGroupVersion.WithKind("PriorityClass")
	return &api.Kind{
		Hub: gvk, HubListKind: "PriorityClassList",
		Resource: "priorityclasses", Singular: "priorityclass",
		ShortNames: []string{"pc"},
		Prefix:     "priorityclasses",
		New:        api.New[schedulingv1.PriorityClass](), NewList: api.New[schedulingv1.PriorityClassList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(func(c *schedulingv1.PriorityClass) {
				api.DefaultPtr(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
			}),
			PrepareCreate: func(o runtime.Object) { o.(*schedulingv1.PriorityClass).Generation = 1 },
			PrepareUpdate: func(o, prev runtime.Object) {
				o.(*schedulingv1.PriorityClass).Generation = prev.(*schedulingv1.PriorityClass).Generation
			},
			Validate: api.Check(validatePriorityClass),
			ValidateUpdate: api.Check2(func(c, old *schedulingv1.PriorityClass) field.ErrorList {
				var errs field.ErrorList
				// Pods carry the value: a change would not reach them.
				if c.Value != old.Value {
					errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
				}
				return append(errs, check.Immutable(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
			}),
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.Integer("Value", schedulingv1.PriorityClass{}.SwaggerDoc()["value"]),
			{Name: "Global-Default", Type: "boolean", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["globalDefault"]},
			printing.AgeColumn(),
			printing.String("PreemptionPolicy", schedulingv1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"]),
		},
		Cells: api.Cells(func(c *schedulingv1.PriorityClass) []any {
			policy := ""
			if c.PreemptionPolicy != nil {
				policy = string(*c.PreemptionPolicy)
			}
			return []any{c.Name, int64(c.Value), c.GlobalDefault, printing.Age(c.CreationTimestamp), policy}
		}),
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, systemPrefix) {
		value, known := systemClasses()[c.Name]
		why := ""
		switch {
		case !known:
			why = fmt.Sprintf("%v is not a known system priority class", c.Name)
		case c.Value != value:
			why = fmt.Sprintf("value of %v PriorityClass must be %v", c.Name, value)
		case c.GlobalDefault:
			why = fmt.Sprintf("globalDefault of %v PriorityClass must be false", c.Name)
		}
		if why != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+why))
		}
	} else if c.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if p := c.PreemptionPolicy; p != nil && *p == "" {
		errs = append(errs, field.Required(field.NewPath("preemptionPolicy"), ""))
	} else if p != nil {
		errs = append(errs, check.OneOf(*p, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}
