package flowcontrol

import (
	"fmt"
	"math"
	"strconv"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/printing"
)

const (
	maxQueues = 10 * 1000 * 1000
	// A request's hand is dealt from a hash of so many bits.
	maxEntropyBits = 60
)

var priorityLevelConfigurationParts = api.SpecStatus(func(o *flowcontrolv1.PriorityLevelConfiguration) (*flowcontrolv1.PriorityLevelConfigurationSpec, *flowcontrolv1.PriorityLevelConfigurationStatus) {
	return &o.Spec, &o.Status
})

func priorityLevelConfigurationKind() *api.Kind {
	gvk := flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration")
	queuing := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return &api.Kind{
		Hub: gvk, HubListKind: "PriorityLevelConfigurationList",
		Resource: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration",
		Prefix: "prioritylevelconfigurations",
		New:    api.New[flowcontrolv1.PriorityLevelConfiguration](), NewList: api.New[flowcontrolv1.PriorityLevelConfigurationList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default:       api.On(defaultPriorityLevel),
			PrepareCreate: priorityLevelConfigurationParts.PrepareCreate, PrepareUpdate: priorityLevelConfigurationParts.PrepareUpdate,
			Validate: api.Check(validatePriorityLevel),
			ValidateUpdate: api.Check2(func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
				return validatePriorityLevel(p)
			}),
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				Resets:        []string{"spec", "metadata"},
				PrepareUpdate: priorityLevelConfigurationParts.PrepareStatus,
				ValidateUpdate: api.Check2(func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
					seen := map[flowcontrolv1.PriorityLevelConfigurationConditionType]bool{}
					var errs field.ErrorList
					for i, c := range p.Status.Conditions {
						errs = append(errs, validateCondition(i, c.Type, seen)...)
					}
					return errs
				}),
			}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			printing.String("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
			printing.String("Queues", queuing["queues"]),
			printing.String("HandSize", queuing["handSize"]),
			printing.String("QueueLengthLimit", queuing["queueLengthLimit"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(p *flowcontrolv1.PriorityLevelConfiguration) []any {
			var shares, queues, hand, length any = printing.None, printing.None, printing.None, printing.None
			if l := p.Spec.Limited; l != nil {
				if l.NominalConcurrencyShares != nil {
					shares = int64(*l.NominalConcurrencyShares)
				}
				if q := l.LimitResponse.Queuing; q != nil {
					queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
				}
			}
			return []any{p.Name, string(p.Spec.Type), shares, queues, hand, length, printing.Age(p.CreationTimestamp)}
		}),
	}
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if e := p.Spec.Exempt; e != nil {
		api.DefaultPtr(&e.NominalConcurrencyShares, 0)
		api.DefaultPtr(&e.LendablePercent, 0)
	}
	if l := p.Spec.Limited; l != nil {
		api.DefaultPtr(&l.NominalConcurrencyShares, 30)
		api.DefaultPtr(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			api.DefaultValue(&q.HandSize, 8)
			api.DefaultValue(&q.Queues, 64)
			api.DefaultValue(&q.QueueLengthLimit, 50)
		}
	}
}

func validatePriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	exempt := p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt
	var errs field.ErrorList
	if exempt && s.Type != flowcontrolv1.PriorityLevelEnablementExempt {
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be 'Exempt' if 'name' is 'exempt'"))
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if !exempt {
			errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must not be 'Exempt' if 'name' is not 'exempt'"))
		}
		if s.Limited != nil {
			errs = append(errs, field.Forbidden(path.Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := s.Exempt; e != nil {
			at := path.Child("exempt")
			errs = append(errs, check.NonNegativePtr(e.NominalConcurrencyShares, at.Child("nominalConcurrencyShares"))...)
			errs = append(errs, percentage(e.LendablePercent, at.Child("lendablePercent"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			errs = append(errs, field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited"))
		}
		if s.Limited == nil {
			return append(errs, field.Required(path.Child("limited"), "must not be empty when type is Limited"))
		}
		errs = append(errs, validateLimited(s.Limited, path.Child("limited"))...)
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), s.Type, []flowcontrolv1.PriorityLevelEnablement{
			flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited,
		}))
	}
	return errs
}

func percentage(n *int32, path *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(path, *n, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := l.NominalConcurrencyShares; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *n, "must be a non-negative integer"))
	}
	errs = append(errs, percentage(l.LendablePercent, path.Child("lendablePercent"))...)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	at := path.Child("limitResponse")
	q := l.LimitResponse.Queuing
	switch l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		in := at.Child("queuing")
		if q == nil {
			return append(errs, field.Required(in, "must not be empty if limited.limitResponse.type is Limited"))
		}
		if q.QueueLengthLimit <= 0 {
			errs = append(errs, field.Invalid(in.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
		}
		if q.Queues <= 0 {
			errs = append(errs, field.Invalid(in.Child("queues"), q.Queues, "must be positive"))
		} else if q.Queues > maxQueues {
			errs = append(errs, field.Invalid(in.Child("queues"), q.Queues, "must not be greater than 10000000"))
		}
		if q.HandSize <= 0 {
			errs = append(errs, field.Invalid(in.Child("handSize"), q.HandSize, "must be positive"))
		} else if q.HandSize > q.Queues {
			errs = append(errs, field.Invalid(in.Child("handSize"), q.HandSize, "should not be greater than queues ("+strconv.Itoa(int(q.Queues))+")"))
		} else if math.Ceil(math.Log2(float64(q.Queues))*float64(q.HandSize)) > maxEntropyBits {
			errs = append(errs, field.Invalid(in.Child("handSize"), q.HandSize,
				fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxEntropyBits)))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), l.LimitResponse.Type, []flowcontrolv1.LimitResponseType{
			flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject,
		}))
	}
	return errs
}
