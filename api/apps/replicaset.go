package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/autoscaling"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

var replicaSetParts = api.SpecStatus(func(o *appsv1.ReplicaSet) (*appsv1.ReplicaSetSpec, *appsv1.ReplicaSetStatus) {
	return &o.Spec, &o.Status
})

func replicaSetKind(on podspec.Gates) *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	return &api.Kind{
		Hub: gvk, HubListKind: "ReplicaSetList",
		Resource: "replicasets", Singular: "replicaset",
		ShortNames: []string{"rs"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "replicasets",
		New: api.New[appsv1.ReplicaSet](), NewList: api.New[appsv1.ReplicaSetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(func(r *appsv1.ReplicaSet) {
				api.DefaultPtr(&r.Spec.Replicas, 1)
				podspec.DefaultTemplate(&r.Spec.Template)
			}),
			PrepareCreate: func(o runtime.Object) {
				replicaSetParts.PrepareCreate(o)
				on.DropDisabled(&o.(*appsv1.ReplicaSet).Spec.Template.Spec, nil)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				on.DropDisabled(&o.(*appsv1.ReplicaSet).Spec.Template.Spec, &prev.(*appsv1.ReplicaSet).Spec.Template.Spec)
				replicaSetParts.PrepareUpdate(o, prev)
			},
			Validate: api.Check(func(r *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSet(r, nil) }),
			ValidateUpdate: api.Check2(func(r, old *appsv1.ReplicaSet) field.ErrorList {
				return append(validateReplicaSet(r, old), check.Immutable(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
			}),
			Warnings: func(o, prev runtime.Object) []string {
				return templateWarnings(o, prev, &o.(*appsv1.ReplicaSet).Spec.Template, true)
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate:  replicaSetParts.PrepareStatus,
				ValidateUpdate: api.Check2(validateReplicaSetStatus),
			}},
			"scale": autoscaling.ScaleSubresource(func(r *appsv1.ReplicaSet) (autoscaling.Scalable, error) {
				return scalable(r.Spec.Replicas, r.Spec.Selector, r.Status.Replicas)
			}, func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n }),
		},
		Columns: append([]metav1.TableColumnDefinition{
			printing.Name(),
			printing.Integer("Desired", appsv1.ReplicaSetSpec{}.SwaggerDoc()["replicas"]),
			printing.Integer("Current", appsv1.ReplicaSetStatus{}.SwaggerDoc()["replicas"]),
			printing.Integer("Ready", appsv1.ReplicaSetStatus{}.SwaggerDoc()["readyReplicas"]),
			printing.AgeColumn(),
		}, templateColumns(appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"])...),
		Cells: api.Cells(func(r *appsv1.ReplicaSet) []any {
			names, images := printing.Containers(r.Spec.Template.Spec.Containers)
			return []any{
				r.Name, int64(wanted(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				printing.Age(r.CreationTimestamp), names, images, printing.Selector(r.Spec.Selector),
			}
		}),
	}
}

// validateReplicaSet checks the spec; old is nil for a new object.
func validateReplicaSet(r, old *appsv1.ReplicaSet) field.ErrorList {
	s, path := &r.Spec, field.NewPath("spec")
	var oldSelector *metav1.LabelSelector
	opts := podspec.Options{}
	if old != nil {
		oldSelector, opts = old.Spec.Selector, podspec.ForUpdate(&old.Spec.Template.Spec)
	}
	errs := check.NonNegativePtr(s.Replicas, path.Child("replicas"))
	errs = append(errs, check.NonNegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	selector, selErrs := check.RequiredSelector(s.Selector, oldSelector, "empty selector is invalid for deployment", "invalid label selector", path.Child("selector"))
	errs = append(errs, selErrs...)
	if selector != nil {
		errs = append(errs, podspec.ValidateTemplateFor(&s.Template, selector, wanted(s.Replicas), path.Child("template"), opts)...)
	}
	return errs
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	s, path := &r.Status, field.NewPath("status")
	errs := check.NonNegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, check.NonNegative(s.FullyLabeledReplicas, path.Child("fullyLabeledReplicas"))...)
	errs = append(errs, check.NonNegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, check.NonNegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, check.NonNegativePtr(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	errs = append(errs, check.NonNegative(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, check.NotMore(s.FullyLabeledReplicas, s.Replicas, path.Child("fullyLabeledReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.ReadyReplicas, s.Replicas, path.Child("readyReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.AvailableReplicas, s.Replicas, path.Child("availableReplicas"), moreThanReplicas)...)
	return append(errs, check.NotMore(s.AvailableReplicas, s.ReadyReplicas, path.Child("availableReplicas"), moreThanReady)...)
}
