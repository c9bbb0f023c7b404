package core

import (
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

var controllerParts = api.SpecStatus(func(r *corev1.ReplicationController) (*corev1.ReplicationControllerSpec, *corev1.ReplicationControllerStatus) {
	return &r.Spec, &r.Status
})

func replicationController(on podspec.Gates) *api.Kind {
	k := row("ReplicationController", "replicationcontrollers", "replicationcontroller", true, "controllers", "rc")
	k.New, k.NewList = api.New[corev1.ReplicationController](), api.New[corev1.ReplicationControllerList]()
	k.Categories = []string{"all"}
	k.Strategy = api.Strategy{
		Default: api.On(defaultController),
		PrepareCreate: func(o runtime.Object) {
			controllerParts.PrepareCreate(o)
			if t := o.(*corev1.ReplicationController).Spec.Template; t != nil {
				on.DropDisabled(&t.Spec, nil)
			}
		},
		PrepareUpdate: func(o, prev runtime.Object) {
			if t, old := o.(*corev1.ReplicationController).Spec.Template, prev.(*corev1.ReplicationController).Spec.Template; t != nil && old != nil {
				on.DropDisabled(&t.Spec, &old.Spec)
			}
			controllerParts.PrepareUpdate(o, prev)
		},
		Validate: api.Check(func(r *corev1.ReplicationController) field.ErrorList {
			return validateController(r, podspec.Options{})
		}),
		ValidateUpdate: api.Check2(func(r, old *corev1.ReplicationController) field.ErrorList {
			opts := podspec.Options{}
			if old.Spec.Template != nil {
				opts = podspec.ForUpdate(&old.Spec.Template.Spec)
			}
			return validateController(r, opts)
		}),
		Warnings:      warnings(controllerWarnings),
		DefaultOrphan: true,
	}
	k.Subresources = map[string]api.Subresource{
		"status": {Object: &api.Strategy{
			PrepareUpdate:  controllerParts.PrepareStatus,
			ValidateUpdate: api.Check2(validateControllerStatus),
		}},
		"scale": {Project: &api.Projection{
			GVK: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), New: api.New[autoscalingv1.Scale](),
			Get: controllerScale, Set: setControllerScale, Validate: validateScale,
		}},
	}
	selectable(k, func(r *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
	}, "status.replicas")
	doc := corev1.ReplicationControllerSpec{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.Integer("Desired", doc["replicas"]),
		printing.Integer("Current", corev1.ReplicationControllerStatus{}.SwaggerDoc()["replicas"]),
		printing.Integer("Ready", corev1.ReplicationControllerStatus{}.SwaggerDoc()["readyReplicas"]),
		printing.AgeColumn(),
		printing.Wide(printing.String("Containers", "Names of each container in the template.")),
		printing.Wide(printing.String("Images", "Images referenced by each container in the template.")),
		printing.Wide(printing.String("Selector", doc["selector"])),
	}
	k.Cells = api.Cells(func(r *corev1.ReplicationController) []any {
		var names, images string
		if r.Spec.Template != nil {
			names, images = printing.Containers(r.Spec.Template.Spec.Containers)
		}
		return []any{
			r.Name, int64(replicas(r)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
			printing.Age(r.CreationTimestamp), names, images, printing.Labels(r.Spec.Selector),
		}
	})
	return k
}

func replicas(r *corev1.ReplicationController) int32 {
	if r.Spec.Replicas == nil {
		return 0
	}
	return *r.Spec.Replicas
}

// defaultController takes selector and labels from the template.
func defaultController(r *corev1.ReplicationController) {
	if t := r.Spec.Template; t != nil {
		podspec.DefaultTemplate(t)
		if len(t.Labels) > 0 {
			if len(r.Spec.Selector) == 0 {
				r.Spec.Selector = labels.Merge(t.Labels, nil)
			}
			if len(r.Labels) == 0 {
				r.Labels = labels.Merge(t.Labels, nil)
			}
		}
	}
	defPtr(&r.Spec.Replicas, 1)
}

func controllerScale(o runtime.Object) (runtime.Object, error) {
	r := o.(*corev1.ReplicationController)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.Name, Namespace: r.Namespace, UID: r.UID,
			ResourceVersion: r.ResourceVersion, CreationTimestamp: r.CreationTimestamp,
		},
		Spec: autoscalingv1.ScaleSpec{Replicas: replicas(r)},
		Status: autoscalingv1.ScaleStatus{
			Replicas: r.Status.Replicas, Selector: labels.SelectorFromSet(r.Spec.Selector).String(),
		},
	}, nil
}

func setControllerScale(o, in runtime.Object) error {
	n := in.(*autoscalingv1.Scale).Spec.Replicas
	o.(*corev1.ReplicationController).Spec.Replicas = &n
	return nil
}

func validateScale(in runtime.Object) field.ErrorList {
	return nonNegative(int64(in.(*autoscalingv1.Scale).Spec.Replicas), field.NewPath("spec", "replicas"))
}

func validateController(r *corev1.ReplicationController, opts podspec.Options) field.ErrorList {
	path := field.NewPath("spec")
	errs := nonNegative(int64(r.Spec.MinReadySeconds), path.Child("minReadySeconds"))
	selector := labels.Set(r.Spec.Selector).AsSelector()
	if selector.Empty() {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if r.Spec.Replicas == nil {
		errs = append(errs, field.Required(path.Child("replicas"), ""))
	}
	errs = append(errs, nonNegative(int64(replicas(r)), path.Child("replicas"))...)
	opts.Owner = "ReplicationController"
	return append(errs, podspec.ValidateTemplateFor(r.Spec.Template, selector, replicas(r), path.Child("template"), opts)...)
}

func validateControllerStatus(r, old *corev1.ReplicationController) field.ErrorList {
	path, s := field.NewPath("status"), &r.Status
	var errs field.ErrorList
	for _, f := range []struct {
		n    int64
		name string
	}{
		{int64(s.Replicas), "replicas"}, {int64(s.FullyLabeledReplicas), "fullyLabeledReplicas"},
		{int64(s.ReadyReplicas), "readyReplicas"}, {int64(s.AvailableReplicas), "availableReplicas"},
		{s.ObservedGeneration, "observedGeneration"},
	} {
		errs = append(errs, nonNegative(f.n, path.Child(f.name))...)
	}
	const text = "cannot be greater than status.replicas"
	if s.FullyLabeledReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, text))
	}
	if s.ReadyReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("readyReplicas"), s.ReadyReplicas, text))
	}
	if s.AvailableReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, text))
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

// controllerWarnings warns about a controller that is new or of a new
// generation.
func controllerWarnings(r, old *corev1.ReplicationController) []string {
	if r.Spec.Template == nil || old != nil && old.Generation == r.Generation {
		return nil
	}
	var out []string
	if old == nil {
		out = podspec.NameWarnings(r.Name, podspec.PodNames)
	}
	return append(out, podspec.Warnings(r.Spec.Template, field.NewPath("spec", "template"))...)
}
