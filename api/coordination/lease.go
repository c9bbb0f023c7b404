package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func leaseKind() *api.Kind {
	gvk := coordinationv1.SchemeGroupVersion.WithKind("Lease")
	return &api.Kind{
		Hub: gvk, HubListKind: "LeaseList",
		Resource: "leases", Singular: "lease",
		Namespaced: true, Prefix: "leases",
		New: api.New[coordinationv1.Lease](), NewList: api.New[coordinationv1.LeaseList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			AnyFinalizer:  true,
			PrepareCreate: func(o runtime.Object) { dropCoordination(&o.(*coordinationv1.Lease).Spec, nil) },
			PrepareUpdate: func(o, prev runtime.Object) {
				dropCoordination(&o.(*coordinationv1.Lease).Spec, &prev.(*coordinationv1.Lease).Spec)
			},
			Validate:                  api.Check(validateLease),
			ValidateUpdate:            api.Check2(func(l, _ *coordinationv1.Lease) field.ErrorList { return validateLease(l) }),
			AllowCreateOnUpdate:       true,
			ForbidUnconditionalUpdate: true,
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			printing.AgeColumn(),
		},
		Cells: api.Cells(func(l *coordinationv1.Lease) []any {
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, printing.Age(l.CreationTimestamp)}
		}),
	}
}

// dropCoordination clears the fields of coordinated leader election, which
// 1.36 has off by default, unless the stored lease uses them.
func dropCoordination(s, old *coordinationv1.LeaseSpec) {
	if old == nil || old.Strategy == nil && old.PreferredHolder == nil {
		s.Strategy, s.PreferredHolder = nil, nil
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if n := l.Spec.LeaseDurationSeconds; n != nil && *n <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *n, "must be greater than 0"))
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	if h := l.Spec.PreferredHolder; h != nil && *h != "" && (l.Spec.Strategy == nil || *l.Spec.Strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
