package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

// templateGeneration counts the changes of a daemon set's template. It was a
// field once; the API server still keeps it, for controllers of old that read
// it.
const templateGeneration = appsv1.DeprecatedTemplateGeneration

var daemonSetParts = api.SpecStatus(func(o *appsv1.DaemonSet) (*appsv1.DaemonSetSpec, *appsv1.DaemonSetStatus) {
	return &o.Spec, &o.Status
})

func daemonSetKind(on podspec.Gates) *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	return &api.Kind{
		Hub: gvk, HubListKind: "DaemonSetList",
		Resource: "daemonsets", Singular: "daemonset",
		ShortNames: []string{"ds"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "daemonsets",
		New: api.New[appsv1.DaemonSet](), NewList: api.New[appsv1.DaemonSetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultDaemonSet),
			PrepareCreate: func(o runtime.Object) {
				daemonSetParts.PrepareCreate(o)
				d := o.(*appsv1.DaemonSet)
				on.DropDisabled(&d.Spec.Template.Spec, nil)
				setTemplateGeneration(d, max(1, templateGenerationOf(d)))
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				d, old := o.(*appsv1.DaemonSet), prev.(*appsv1.DaemonSet)
				on.DropDisabled(&d.Spec.Template.Spec, &old.Spec.Template.Spec)
				daemonSetParts.PrepareUpdate(o, prev)
				n := templateGenerationOf(old)
				if !check.Equal(d.Spec.Template, old.Spec.Template) {
					n++
				}
				setTemplateGeneration(d, n)
			},
			Validate: api.Check(func(d *appsv1.DaemonSet) field.ErrorList { return validateDaemonSet(d, nil) }),
			ValidateUpdate: api.Check2(func(d, old *appsv1.DaemonSet) field.ErrorList {
				return append(check.Immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector")), validateDaemonSet(d, old)...)
			}),
			Warnings: func(o, prev runtime.Object) []string {
				return templateWarnings(o, prev, &o.(*appsv1.DaemonSet).Spec.Template, false)
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate: func(o, prev runtime.Object) {
					daemonSetParts.PrepareStatus(o, prev)
					setTemplateGeneration(o.(*appsv1.DaemonSet), templateGenerationOf(prev.(*appsv1.DaemonSet)))
				},
				ValidateUpdate: api.Check2(validateDaemonSetStatus),
			}},
		},
		Columns: append([]metav1.TableColumnDefinition{
			printing.Name(),
			printing.Integer("Desired", appsv1.DaemonSetStatus{}.SwaggerDoc()["desiredNumberScheduled"]),
			printing.Integer("Current", appsv1.DaemonSetStatus{}.SwaggerDoc()["currentNumberScheduled"]),
			printing.Integer("Ready", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberReady"]),
			printing.Integer("Up-to-date", appsv1.DaemonSetStatus{}.SwaggerDoc()["updatedNumberScheduled"]),
			printing.Integer("Available", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberAvailable"]),
			printing.String("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			printing.AgeColumn(),
		}, templateColumns(appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"])...),
		Cells: api.Cells(func(d *appsv1.DaemonSet) []any {
			names, images := printing.Containers(d.Spec.Template.Spec.Containers)
			s := &d.Status
			return []any{
				d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
				int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), printing.Labels(d.Spec.Template.Spec.NodeSelector),
				printing.Age(d.CreationTimestamp), names, images, printing.Selector(d.Spec.Selector),
			}
		}),
	}
}

func templateGenerationOf(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[templateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[templateGeneration] = strconv.FormatInt(n, 10)
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	s := &d.Spec
	api.DefaultValue(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		api.DefaultPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		api.DefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		api.DefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	api.DefaultPtr(&s.RevisionHistoryLimit, 10)
	podspec.DefaultTemplate(&s.Template)
	if _, ok := d.Annotations[templateGeneration]; !ok { // its writer is who manages it
		setTemplateGeneration(d, 0)
	}
}

// validateDaemonSet checks the spec; old is nil for a new object.
func validateDaemonSet(d, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	var oldSelector *metav1.LabelSelector
	opts := podspec.Options{}
	if old != nil {
		oldSelector, opts = old.Spec.Selector, podspec.ForUpdate(&old.Spec.Template.Spec)
	}
	template := path.Child("template")
	errs := check.LabelSelector(s.Selector, oldSelector, path.Child("selector"))
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if check.EmptySelector(s.Selector) {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, podspec.ValidateTemplate(&s.Template, template, opts)...)
	errs = append(errs, check.OneOf(s.Template.Spec.RestartPolicy, template.Child("spec", "restartPolicy"), corev1.RestartPolicyAlways)...)
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in DaemonSet is not Supported"))
	}
	errs = append(errs, check.NonNegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&s.UpdateStrategy, path.Child("updateStrategy"))...)
	return append(errs, check.NonNegativePtr(s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	if s.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		if s.Type == appsv1.OnDeleteDaemonSetStrategyType {
			return nil
		}
		return field.ErrorList{field.NotSupported(path, check.Shown(*s), []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
	}
	p := path.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return field.ErrorList{field.Required(p, "")}
	}
	unavailable, surge := p.Child("maxUnavailable"), p.Child("maxSurge")
	var errs field.ErrorList
	if v := s.RollingUpdate.MaxUnavailable; v != nil {
		errs = append(errs, check.IntOrPercent(*v, unavailable)...)
		errs = append(errs, check.AtMost100Percent(*v, unavailable)...)
	}
	if v := s.RollingUpdate.MaxSurge; v != nil {
		errs = append(errs, check.IntOrPercent(*v, surge)...)
		errs = append(errs, check.AtMost100Percent(*v, surge)...)
	}
	// Exactly one of the two says how pods are replaced.
	hasUnavailable, hasSurge := check.Amount(s.RollingUpdate.MaxUnavailable) != 0, check.Amount(s.RollingUpdate.MaxSurge) != 0
	switch {
	case hasUnavailable && hasSurge:
		errs = append(errs, field.Invalid(surge, s.RollingUpdate.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		errs = append(errs, field.Required(unavailable, "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := check.NonNegative(s.CurrentNumberScheduled, path.Child("currentNumberScheduled"))
	errs = append(errs, check.NonNegative(s.NumberMisscheduled, path.Child("numberMisscheduled"))...)
	errs = append(errs, check.NonNegative(s.DesiredNumberScheduled, path.Child("desiredNumberScheduled"))...)
	errs = append(errs, check.NonNegative(s.NumberReady, path.Child("numberReady"))...)
	errs = append(errs, check.NonNegative(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, check.NonNegative(s.UpdatedNumberScheduled, path.Child("updatedNumberScheduled"))...)
	errs = append(errs, check.NonNegative(s.NumberAvailable, path.Child("numberAvailable"))...)
	errs = append(errs, check.NonNegative(s.NumberUnavailable, path.Child("numberUnavailable"))...)
	errs = append(errs, check.NonNegativePtr(s.CollisionCount, path.Child("collisionCount"))...)
	return append(errs, check.NotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
