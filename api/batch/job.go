package batch

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

// The labels that tie pods to their job; the two without a prefix are kept for
// clients of old.
const (
	legacyUIDLabel  = "controller-uid"
	legacyNameLabel = "job-name"
)

var jobParts = api.SpecStatus(func(o *batchv1.Job) (*batchv1.JobSpec, *batchv1.JobStatus) {
	return &o.Spec, &o.Status
})

func jobKind(on podspec.Gates) *api.Kind {
	gvk := batchv1.SchemeGroupVersion.WithKind("Job")
	return &api.Kind{
		Hub: gvk, HubListKind: "JobList",
		Resource: "jobs", Singular: "job",
		Categories: []string{"all"},
		Namespaced: true, Prefix: "jobs",
		New: api.New[batchv1.Job](), NewList: api.New[batchv1.JobList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultJob),
			PrepareCreate: func(o runtime.Object) {
				j := o.(*batchv1.Job)
				jobParts.PrepareCreate(o)
				on.DropDisabled(&j.Spec.Template.Spec, nil)
				generateSelector(j)
				defaultLabels(j)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				on.DropDisabled(&o.(*batchv1.Job).Spec.Template.Spec, &prev.(*batchv1.Job).Spec.Template.Spec)
				jobParts.PrepareUpdate(o, prev)
			},
			Validate:       api.Check(func(j *batchv1.Job) field.ErrorList { return validateJob(j, nil) }),
			ValidateUpdate: api.Check2(validateJobUpdate),
			Warnings: func(o, prev runtime.Object) []string {
				j := o.(*batchv1.Job)
				if prev != nil && prev.(*batchv1.Job).Generation == j.Generation {
					return nil
				}
				return warnings(j, &j.Spec, prev == nil, field.NewPath("spec"))
			},
			DefaultOrphan: true, OrphanWarning: "child pods are preserved by default when jobs are deleted; " +
				"set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{
				PrepareUpdate: func(o, prev runtime.Object) {
					jobParts.PrepareStatus(o, prev)
					defaultLabels(o.(*batchv1.Job))
				},
				ValidateUpdate: api.Check2(validateJobStatus),
			}},
		},
		Fields: api.Fields(func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		}),
		FieldNames: []string{"status.successful"}, UnknownField: "field label %q not supported for Job",
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Status", "Status of the job."),
			printing.String("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
			printing.String("Duration", "Time required to complete the job."),
			printing.AgeColumn(),
			printing.Wide(printing.String("Containers", "Names of each container in the template.")),
			printing.Wide(printing.String("Images", "Images referenced by each container in the template.")),
			printing.Wide(printing.String("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
		},
		Cells: api.Cells(jobCells),
	}
}

func jobCells(j *batchv1.Job) []any {
	names, images := printing.Containers(j.Spec.Template.Spec.Containers)
	return []any{
		j.Name, jobStatus(j), jobCompletions(j), jobDuration(j), printing.Age(j.CreationTimestamp),
		names, images, printing.Selector(j.Spec.Selector),
	}
}

func jobCompletions(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if p := j.Spec.Parallelism; p != nil && *p > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *p)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

func jobStatus(j *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for i := range j.Status.Conditions {
			if c := &j.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case is(batchv1.JobSuspended):
		return "Suspended"
	case is(batchv1.JobFailureTarget):
		return "FailureTarget"
	case is(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		api.DefaultPtr(&s.Completions, 1)
	}
	api.DefaultPtr(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		api.DefaultPtr(&s.BackoffLimit, math.MaxInt32)
	}
	api.DefaultPtr(&s.BackoffLimit, 6)
	defaultLabels(j)
	api.DefaultPtr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	api.DefaultPtr(&s.Suspend, false)
	api.DefaultPtr(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		api.DefaultPtr(&s.PodReplacementPolicy, batchv1.Failed)
	}
	api.DefaultPtr(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultFailurePolicy(s.PodFailurePolicy)
	podspec.DefaultTemplate(&s.Template)
}

// defaultLabels gives a job without labels those of its template, also where
// they are the server's: so readers of upstream's jobs see them.
func defaultLabels(j *batchv1.Job) {
	if len(j.Labels) == 0 && len(j.Spec.Template.Labels) > 0 {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
}

func defaultFailurePolicy(p *batchv1.PodFailurePolicy) {
	if p == nil {
		return
	}
	for i := range p.Rules {
		for k := range p.Rules[i].OnPodConditions {
			api.DefaultValue(&p.Rules[i].OnPodConditions[k].Status, corev1.ConditionTrue)
		}
	}
}

// generateSelector labels the template with the job's identity and selects by
// it, unless the user does so himself. What the user has set already stays,
// for validation to judge.
func generateSelector(j *batchv1.Job) {
	if m := j.Spec.ManualSelector; m != nil && *m {
		return
	}
	setAbsent := func(m *map[string]string, key, value string) {
		if _, ok := (*m)[key]; ok {
			return
		}
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[key] = value
	}
	t := &j.Spec.Template
	setAbsent(&t.Labels, legacyNameLabel, j.Name)
	setAbsent(&t.Labels, batchv1.JobNameLabel, j.Name)
	setAbsent(&t.Labels, legacyUIDLabel, string(j.UID))
	setAbsent(&t.Labels, batchv1.ControllerUidLabel, string(j.UID))
	api.DefaultPtr(&j.Spec.Selector, metav1.LabelSelector{})
	setAbsent(&j.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, string(j.UID))
}
