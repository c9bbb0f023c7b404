package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api/check"
)

// validateJobUpdate checks a changed job. A job's pods are made from its
// template as it was, so that hardly anything may change once it has started. It
// is judged as a job and as a change, so that what is wrong with it as a job is
// said twice, as it is upstream.
func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateJob(j, old)
	errs = append(errs, validateSpec(&j.Spec, &old.Spec, path)...)
	errs = append(errs, validateSelector(&j.Spec, &old.Spec, path)...)
	errs = append(errs, validateCompletionsUpdate(&j.Spec, &old.Spec, path)...)
	errs = append(errs, check.Immutable(j.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateTemplateUpdate(&j.Spec, &old.Spec, suspendedAndStopped(old), path.Child("template"))...)
	errs = append(errs, check.Immutable(j.Spec.CompletionMode, old.Spec.CompletionMode, path.Child("completionMode"))...)
	errs = append(errs, check.Immutable(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy, path.Child("podFailurePolicy"))...)
	errs = append(errs, check.Immutable(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, check.Immutable(j.Spec.ManagedBy, old.Spec.ManagedBy, path.Child("managedBy"))...)
	return append(errs, check.Immutable(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy, path.Child("successPolicy"))...)
}

// suspendedAndStopped says that no pod of the job runs, so that where the pods
// will go may still change.
func suspendedAndStopped(j *batchv1.Job) bool {
	if s := j.Spec.Suspend; s == nil || !*s {
		return false
	}
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue {
			return j.Status.Active == 0
		}
	}
	return j.Status.StartTime == nil
}

// validateTemplateUpdate lets only the metadata, the scheduling directives and
// the resources of a stopped job change (KEP-2926, KEP-5440).
func validateTemplateUpdate(s, old *batchv1.JobSpec, stopped bool, path *field.Path) field.ErrorList {
	if !stopped {
		return check.Immutable(s.Template, old.Template, path)
	}
	spec, now := old.Template.Spec.DeepCopy(), &s.Template.Spec
	spec.NodeSelector, spec.Affinity = now.NodeSelector, now.Affinity
	spec.Tolerations, spec.SchedulingGates = now.Tolerations, now.SchedulingGates
	keepResources(spec.Containers, now.Containers)
	keepResources(spec.InitContainers, now.InitContainers)
	return check.Immutable(*now, *spec, path.Child("spec"))
}

// keepResources gives each container of to the resources of its namesake.
func keepResources(to, from []corev1.Container) {
	for i := range to {
		for k := range from {
			if to[i].Name == from[k].Name {
				to[i].Resources = from[k].Resources
			}
		}
	}
}

// validateCompletionsUpdate lets an indexed job grow or shrink when its
// completions and parallelism are and stay the same (KEP-3715).
func validateCompletionsUpdate(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	elastic := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && s.Completions != nil && old.Completions != nil
	if !elastic || check.Equal(s.Completions, old.Completions) {
		return check.Immutable(s.Completions, old.Completions, path.Child("completions"))
	}
	if s.Parallelism == nil || *s.Completions != *s.Parallelism || old.Parallelism == nil || *old.Completions != *old.Parallelism {
		return field.ErrorList{field.Invalid(path.Child("completions"), s.Completions, "can only be modified in tandem with spec.parallelism")}
	}
	return nil
}

// validateJobStatus checks what the job controller reports.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	s, path := &j.Status, field.NewPath("status")
	errs := check.NonNegative(s.Active, path.Child("active"))
	errs = append(errs, check.NonNegative(s.Succeeded, path.Child("succeeded"))...)
	errs = append(errs, check.NonNegative(s.Failed, path.Child("failed"))...)
	errs = append(errs, check.NonNegativePtr(s.Ready, path.Child("ready"))...)
	errs = append(errs, check.NonNegativePtr(s.Terminating, path.Child("terminating"))...)
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	is := func(st *batchv1.JobStatus, t batchv1.JobConditionType) bool {
		for i := range st.Conditions {
			if c := &st.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	complete, failed := is(s, batchv1.JobComplete), is(s, batchv1.JobFailed)
	if complete && failed {
		errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	if s.CompletionTime != nil && !complete {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	if complete && s.CompletionTime == nil {
		errs = append(errs, field.Required(path.Child("completionTime"), "completionTime is required for Complete jobs"))
	}
	if s.CompletionTime != nil && s.StartTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	if (complete || failed) && s.Active > 0 {
		errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if is(&old.Status, batchv1.JobComplete) && !complete {
		errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, "cannot disable the terminal Complete=True condition"))
	}
	if is(&old.Status, batchv1.JobFailed) && !failed {
		errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, "cannot disable the terminal Failed=True condition"))
	}
	return append(errs, validateIndexes(j, old, path)...)
}
