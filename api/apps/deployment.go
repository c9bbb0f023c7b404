package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/autoscaling"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

var deploymentParts = api.SpecStatus(func(o *appsv1.Deployment) (*appsv1.DeploymentSpec, *appsv1.DeploymentStatus) {
	return &o.Spec, &o.Status
})

func deploymentKind(on podspec.Gates) *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("Deployment")
	return &api.Kind{
		Hub: gvk, HubListKind: "DeploymentList",
		Resource: "deployments", Singular: "deployment",
		ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "deployments",
		New: api.New[appsv1.Deployment](), NewList: api.New[appsv1.DeploymentList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultDeployment),
			PrepareCreate: func(o runtime.Object) {
				deploymentParts.PrepareCreate(o)
				on.DropDisabled(&o.(*appsv1.Deployment).Spec.Template.Spec, nil)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				obj, old := o.(*appsv1.Deployment), prev.(*appsv1.Deployment)
				on.DropDisabled(&obj.Spec.Template.Spec, &old.Spec.Template.Spec)
				deploymentParts.PrepareUpdate(o, prev)
				// kubectl rollout history reads annotations off the replica sets,
				// which the controller copies there for every generation.
				if obj.Generation == old.Generation && !check.Equal(obj.Annotations, old.Annotations) {
					obj.Generation++
				}
			},
			Validate: api.Check(func(d *appsv1.Deployment) field.ErrorList {
				return validateDeployment(d, nil)
			}),
			ValidateUpdate: api.Check2(validateDeployment2),
			Warnings: func(o, prev runtime.Object) []string {
				return templateWarnings(o, prev, &o.(*appsv1.Deployment).Spec.Template, true)
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				Resets: []string{"spec", "metadata.labels"},
				PrepareUpdate: func(o, prev runtime.Object) {
					deploymentParts.PrepareStatus(o, prev)
					o.(*appsv1.Deployment).Labels = prev.(*appsv1.Deployment).Labels
				},
				ValidateUpdate: api.Check2(validateDeploymentStatus),
			}},
			"scale": autoscaling.ScaleSubresource(func(d *appsv1.Deployment) (autoscaling.Scalable, error) {
				return scalable(d.Spec.Replicas, d.Spec.Selector, d.Status.Replicas)
			}, func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n }),
		},
		Columns: append([]metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Ready", "Number of the pod with ready state"),
			printing.String("Up-to-date", appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"]),
			printing.String("Available", appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"]),
			printing.AgeColumn(),
		}, templateColumns(appsv1.DeploymentSpec{}.SwaggerDoc()["selector"])...),
		Cells: api.Cells(func(d *appsv1.Deployment) []any {
			names, images := printing.Containers(d.Spec.Template.Spec.Containers)
			return []any{
				d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, wanted(d.Spec.Replicas)),
				int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
				printing.Age(d.CreationTimestamp), names, images, selectorCell(d.Spec.Selector),
			}
		}),
	}
}

// defaultDeployment sets the defaults of apps/v1.
func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	api.DefaultPtr(&s.Replicas, 1)
	api.DefaultValue(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		api.DefaultPtr(&s.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		api.DefaultPtr(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		api.DefaultPtr(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	api.DefaultPtr(&s.RevisionHistoryLimit, 10)
	api.DefaultPtr(&s.ProgressDeadlineSeconds, 600)
	podspec.DefaultTemplate(&s.Template)
}

// validateDeployment checks the spec; old is nil for a new object.
func validateDeployment(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	var oldSelector *metav1.LabelSelector
	opts := podspec.Options{}
	if old != nil {
		oldSelector, opts = old.Spec.Selector, podspec.ForUpdate(&old.Spec.Template.Spec)
	}
	errs := check.NonNegativePtr(s.Replicas, path.Child("replicas"))
	selector, selErrs := check.RequiredSelector(s.Selector, oldSelector, "empty selector is invalid for deployment", "invalid label selector", path.Child("selector"))
	errs = append(errs, selErrs...)
	if selector != nil {
		errs = append(errs, podspec.ValidateTemplateFor(&s.Template, selector, wanted(s.Replicas), path.Child("template"), opts)...)
	}
	errs = append(errs, validateDeploymentStrategy(&s.Strategy, path.Child("strategy"))...)
	errs = append(errs, check.NonNegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, check.NonNegativePtr(s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	if s.ProgressDeadlineSeconds != nil {
		p := path.Child("progressDeadlineSeconds")
		errs = append(errs, check.NonNegativePtr(s.ProgressDeadlineSeconds, p)...)
		if *s.ProgressDeadlineSeconds <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(p, *s.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeployment2(d, old *appsv1.Deployment) field.ErrorList {
	return append(validateDeployment(d, old), check.Immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'")}
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		p := path.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(p, "this should be defaulted and never be nil")}
		}
		unavailable, surge := p.Child("maxUnavailable"), p.Child("maxSurge")
		var errs field.ErrorList
		if v := s.RollingUpdate.MaxUnavailable; v != nil {
			errs = append(errs, check.IntOrPercent(*v, unavailable)...)
		}
		if v := s.RollingUpdate.MaxSurge; v != nil {
			errs = append(errs, check.IntOrPercent(*v, surge)...)
		}
		if check.Amount(s.RollingUpdate.MaxUnavailable) == 0 && check.Amount(s.RollingUpdate.MaxSurge) == 0 {
			// Neither more nor fewer pods than wanted: no pod could be replaced.
			errs = append(errs, field.Invalid(unavailable, s.RollingUpdate.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
		}
		if v := s.RollingUpdate.MaxUnavailable; v != nil {
			errs = append(errs, check.AtMost100Percent(*v, unavailable)...)
		}
		return errs
	default:
		return field.ErrorList{field.NotSupported(path, check.Shown(*s), []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType,
		})}
	}
	return nil
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := check.NonNegative(s.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, check.NonNegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, check.NonNegative(s.UpdatedReplicas, path.Child("updatedReplicas"))...)
	errs = append(errs, check.NonNegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, check.NonNegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, check.NonNegative(s.UnavailableReplicas, path.Child("unavailableReplicas"))...)
	errs = append(errs, check.NonNegativePtr(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	errs = append(errs, check.NonNegativePtr(s.CollisionCount, path.Child("collisionCount"))...)
	errs = append(errs, check.NotMore(s.UpdatedReplicas, s.Replicas, path.Child("updatedReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.ReadyReplicas, s.Replicas, path.Child("readyReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.AvailableReplicas, s.Replicas, path.Child("availableReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.AvailableReplicas, s.ReadyReplicas, path.Child("availableReplicas"), moreThanReady)...)
	return append(errs, check.NotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
