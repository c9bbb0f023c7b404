package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/autoscaling"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

var statefulSetParts = api.SpecStatus(func(o *appsv1.StatefulSet) (*appsv1.StatefulSetSpec, *appsv1.StatefulSetStatus) {
	return &o.Spec, &o.Status
})

func statefulSetKind(on podspec.Gates) *api.Kind {
	gvk := appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	return &api.Kind{
		Hub: gvk, HubListKind: "StatefulSetList",
		Resource: "statefulsets", Singular: "statefulset",
		ShortNames: []string{"sts"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "statefulsets",
		New: api.New[appsv1.StatefulSet](), NewList: api.New[appsv1.StatefulSetList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultStatefulSet),
			PrepareCreate: func(o runtime.Object) {
				statefulSetParts.PrepareCreate(o)
				dropMaxUnavailable(o.(*appsv1.StatefulSet), nil)
				on.DropDisabled(&o.(*appsv1.StatefulSet).Spec.Template.Spec, nil)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				on.DropDisabled(&o.(*appsv1.StatefulSet).Spec.Template.Spec, &prev.(*appsv1.StatefulSet).Spec.Template.Spec)
				statefulSetParts.PrepareUpdate(o, prev)
				dropMaxUnavailable(o.(*appsv1.StatefulSet), prev.(*appsv1.StatefulSet))
			},
			Validate:       api.Check(func(s *appsv1.StatefulSet) field.ErrorList { return validateStatefulSet(s, nil) }),
			ValidateUpdate: api.Check2(validateStatefulSetUpdate),
			ValidateName:   apivalidation.NameIsDNSLabel,
			Warnings: func(o, prev runtime.Object) []string {
				spec := &o.(*appsv1.StatefulSet).Spec
				out := templateWarnings(o, prev, &spec.Template, false)
				for i := range spec.VolumeClaimTemplates {
					out = append(out, podspec.ClaimWarnings(&spec.VolumeClaimTemplates[i].Spec, field.NewPath("spec", "volumeClaimTemplates").Index(i))...)
				}
				if n := spec.RevisionHistoryLimit; n != nil && *n < 0 {
					out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
				}
				return out
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate:  statefulSetParts.PrepareStatus,
				ValidateUpdate: api.Check2(validateStatefulSetStatus),
			}},
			"scale": autoscaling.ScaleSubresource(func(s *appsv1.StatefulSet) (autoscaling.Scalable, error) {
				return scalable(s.Spec.Replicas, s.Spec.Selector, s.Status.Replicas)
			}, func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n }),
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Ready", "Number of the pod with ready state"),
			printing.AgeColumn(),
			printing.Wide(printing.String("Containers", "Names of each container in the template.")),
			printing.Wide(printing.String("Images", "Images referenced by each container in the template.")),
		},
		Cells: api.Cells(func(s *appsv1.StatefulSet) []any {
			names, images := printing.Containers(s.Spec.Template.Spec.Containers)
			return []any{
				s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, wanted(s.Spec.Replicas)),
				printing.Age(s.CreationTimestamp), names, images,
			}
		}),
	}
}

// dropMaxUnavailable empties what a feature that is off in 1.36 brings
// (KEP-961), unless the stored object has it.
func dropMaxUnavailable(s, old *appsv1.StatefulSet) {
	if old != nil && old.Spec.UpdateStrategy.RollingUpdate != nil && old.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable != nil {
		return
	}
	if ru := s.Spec.UpdateStrategy.RollingUpdate; ru != nil {
		ru.MaxUnavailable = nil
	}
}

func defaultStatefulSet(o *appsv1.StatefulSet) {
	s := &o.Spec
	api.DefaultValue(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	if u := &s.UpdateStrategy; u.Type == "" { // who names it may leave the rest out
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		api.DefaultPtr(&u.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if u := &s.UpdateStrategy; u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		api.DefaultPtr(&u.RollingUpdate.Partition, 0)
	}
	api.DefaultPtr(&s.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	api.DefaultValue(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	api.DefaultValue(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	api.DefaultPtr(&s.Replicas, 1)
	api.DefaultPtr(&s.RevisionHistoryLimit, 10)
	podspec.DefaultTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		// Nested objects carry their kind on the wire.
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		podspec.DefaultClaimSpec(&c.Spec)
		api.DefaultValue(&c.Status.Phase, corev1.ClaimPending)
	}
}

// validateStatefulSet checks the spec; old is nil for a new object.
func validateStatefulSet(o, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &o.Spec, field.NewPath("spec")
	errs := validatePodManagement(s.PodManagementPolicy, path.Child("podManagementPolicy"))
	errs = append(errs, validateStatefulSetStrategy(&s.UpdateStrategy, path.Child("updateStrategy"))...)
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := path.Child("persistentVolumeClaimRetentionPolicy")
		errs = append(errs, check.OneOf(p.WhenDeleted, at.Child("whenDeleted"), appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
		errs = append(errs, check.OneOf(p.WhenScaled, at.Child("whenScaled"), appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
	}
	errs = append(errs, check.NonNegativePtr(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, check.NonNegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	if s.Ordinals != nil {
		errs = append(errs, check.NonNegative(s.Ordinals.Start, path.Child("ordinals", "start"))...)
	}
	var oldSelector *metav1.LabelSelector
	if old != nil {
		oldSelector = old.Spec.Selector
	}
	if s.ServiceName != "" && old == nil {
		errs = append(errs, check.Each(path.Child("serviceName"), s.ServiceName, validation.IsDNS1123Label(s.ServiceName))...)
	}
	selector, selErrs := check.RequiredSelector(s.Selector, oldSelector, "empty selector is invalid for statefulset", "", path.Child("selector"))
	errs = append(errs, selErrs...)
	template := path.Child("template")
	if selector != nil {
		if !selector.Empty() && !selector.Matches(labels.Set(s.Template.Labels)) {
			errs = append(errs, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
		}
	}
	opts := podspec.Options{}
	if old != nil {
		opts = podspec.ForUpdate(&old.Spec.Template.Spec)
	}
	if old == nil {
		for i := range s.VolumeClaimTemplates {
			errs = append(errs, podspec.ValidateClaimSpec(&s.VolumeClaimTemplates[i].Spec, path.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
	}
	if selector != nil {
		errs = append(errs, podspec.ValidateTemplate(podTemplate(s), template, opts)...)
	}
	errs = append(errs, check.OneOf(s.Template.Spec.RestartPolicy, template.Child("spec", "restartPolicy"), corev1.RestartPolicyAlways)...)
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in StatefulSet is not Supported"))
	}
	return errs
}

// podTemplate is the template as pods are made from it: the volumes of the
// claim templates come first and take the place of those of the same name, and
// the host name and subdomain are the set's.
func podTemplate(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := s.Template
	t.Spec.Hostname, t.Spec.Subdomain = "", ""
	if len(s.VolumeClaimTemplates) == 0 {
		return &t
	}
	var volumes []corev1.Volume
	claimed := map[string]bool{}
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if !claimed[name] {
			claimed[name] = true
			volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}})
		}
	}
	for _, v := range t.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return &t
}

func validatePodManagement(p appsv1.PodManagementPolicyType, path *field.Path) field.ErrorList {
	switch p {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
		return nil
	}
	return field.ErrorList{field.Invalid(path, p, fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement))}
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	p := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(p, s.RollingUpdate, fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return nil
		}
		errs := check.NonNegativePtr(s.RollingUpdate.Partition, p.Child("partition"))
		if v := s.RollingUpdate.MaxUnavailable; v != nil {
			at := p.Child("maxUnavailable")
			errs = append(errs, check.IntOrPercent(*v, at)...)
			if check.Amount(v) == 0 {
				errs = append(errs, field.Invalid(at, *v, "cannot be 0"))
			}
			errs = append(errs, check.AtMost100Percent(*v, at)...)
		}
		return errs
	default:
		return field.ErrorList{field.Invalid(path, *s, fmt.Sprintf("must be '%s' or '%s'", appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	return nil
}

func validateStatefulSetUpdate(o, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateStatefulSet(o, old)
	// What is not among these belongs to the pods' identity or their claims.
	s := o.Spec
	s.Replicas, s.Ordinals, s.Template = old.Spec.Replicas, old.Spec.Ordinals, old.Spec.Template
	s.UpdateStrategy, s.MinReadySeconds = old.Spec.UpdateStrategy, old.Spec.MinReadySeconds
	s.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	s.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !check.Equal(s, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func validateStatefulSetStatus(o, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &o.Status, field.NewPath("status")
	errs := check.NonNegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, check.NonNegative(s.ReadyReplicas, path.Child("readyReplicas"))...)
	errs = append(errs, check.NonNegative(s.CurrentReplicas, path.Child("currentReplicas"))...)
	errs = append(errs, check.NonNegative(s.UpdatedReplicas, path.Child("updatedReplicas"))...)
	errs = append(errs, check.NonNegative(s.AvailableReplicas, path.Child("availableReplicas"))...)
	errs = append(errs, check.NonNegative(s.ObservedGeneration, path.Child("observedGeneration"))...)
	errs = append(errs, check.NonNegativePtr(s.CollisionCount, path.Child("collisionCount"))...)
	errs = append(errs, check.NotMore(s.ReadyReplicas, s.Replicas, path.Child("readyReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.CurrentReplicas, s.Replicas, path.Child("currentReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.UpdatedReplicas, s.Replicas, path.Child("updatedReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.AvailableReplicas, s.Replicas, path.Child("availableReplicas"), moreThanReplicas)...)
	errs = append(errs, check.NotMore(s.AvailableReplicas, s.ReadyReplicas, path.Child("availableReplicas"), "cannot be greater than status.readyReplicas")...)
	return append(errs, check.NotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
