package batch

import (
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/check"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

// maxCronJobName leaves room for the eleven characters that the controller
// appends to make a job's name.
const maxCronJobName = 52

var cronJobParts = api.SpecStatus(func(o *batchv1.CronJob) (*batchv1.CronJobSpec, *batchv1.CronJobStatus) {
	return &o.Spec, &o.Status
})

func cronJobKind(on podspec.Gates) *api.Kind {
	gvk := batchv1.SchemeGroupVersion.WithKind("CronJob")
	return &api.Kind{
		Hub: gvk, HubListKind: "CronJobList",
		Resource: "cronjobs", Singular: "cronjob",
		ShortNames: []string{"cj"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "cronjobs",
		New: api.New[batchv1.CronJob](), NewList: api.New[batchv1.CronJobList](),
		Views: api.Serve(gvk),
		Strategy: api.Strategy{
			Default: api.On(defaultCronJob),
			PrepareCreate: func(o runtime.Object) {
				cronJobParts.PrepareCreate(o)
				on.DropDisabled(&o.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template.Spec, nil)
			},
			PrepareUpdate: func(o, prev runtime.Object) {
				on.DropDisabled(&o.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template.Spec, &prev.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template.Spec)
				cronJobParts.PrepareUpdate(o, prev)
			},
			Validate:       api.Check(func(c *batchv1.CronJob) field.ErrorList { return validateCronJob(c, nil) }),
			ValidateUpdate: api.Check2(validateCronJob),
			Warnings: func(o, prev runtime.Object) []string {
				c := o.(*batchv1.CronJob)
				var out []string
				if prev == nil || prev.(*batchv1.CronJob).Generation != c.Generation {
					out = warnings(c, &c.Spec.JobTemplate.Spec, prev == nil, field.NewPath("spec", "jobTemplate", "spec"))
				}
				if strings.Contains(c.Spec.Schedule, "TZ") {
					out = append(out, "cannot use TZ or CRON_TZ in spec.schedule, use timeZone instead")
				}
				return out
			},
		},
		Subresources: map[string]api.Subresource{
			"status": {Object: &api.Strategy{PrepareUpdate: cronJobParts.PrepareStatus}},
		},
		Columns: []metav1.TableColumnDefinition{
			printing.Name(),
			printing.String("Schedule", batchv1.CronJobSpec{}.SwaggerDoc()["schedule"]),
			printing.String("Timezone", batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"]),
			{Name: "Suspend", Type: "boolean", Description: batchv1.CronJobSpec{}.SwaggerDoc()["suspend"]},
			printing.Integer("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
			printing.String("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
			printing.AgeColumn(),
			printing.Wide(printing.String("Containers", "Names of each container in the template.")),
			printing.Wide(printing.String("Images", "Images referenced by each container in the template.")),
			printing.Wide(printing.String("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
		},
		Cells: api.Cells(func(c *batchv1.CronJob) []any {
			zone, last, suspend := printing.None, printing.None, printing.Unset
			if c.Spec.TimeZone != nil {
				zone = *c.Spec.TimeZone
			}
			if c.Status.LastScheduleTime != nil {
				last = printing.Age(*c.Status.LastScheduleTime)
			}
			if c.Spec.Suspend != nil {
				suspend = map[bool]string{true: "True", false: "False"}[*c.Spec.Suspend]
			}
			job := &c.Spec.JobTemplate.Spec
			names, images := printing.Containers(job.Template.Spec.Containers)
			return []any{
				c.Name, c.Spec.Schedule, zone, suspend, int64(len(c.Status.Active)), last,
				printing.Age(c.CreationTimestamp), names, images, printing.Selector(job.Selector),
			}
		}),
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	s := &c.Spec
	api.DefaultValue(&s.ConcurrencyPolicy, batchv1.AllowConcurrent)
	api.DefaultPtr(&s.Suspend, false)
	api.DefaultPtr(&s.SuccessfulJobsHistoryLimit, 3)
	api.DefaultPtr(&s.FailedJobsHistoryLimit, 1)
	// The job itself is defaulted when it is made from the template.
	defaultFailurePolicy(s.JobTemplate.Spec.PodFailurePolicy)
	podspec.DefaultTemplate(&s.JobTemplate.Spec.Template)
}

// validateCronJob checks the spec; old is nil for a new object.
func validateCronJob(c, old *batchv1.CronJob) field.ErrorList {
	s, path := &c.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if old == nil && len(c.Name) > maxCronJobName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
	}
	if s.Schedule == "" {
		errs = append(errs, field.Required(path.Child("schedule"), ""))
	} else {
		if err := checkSchedule(s.Schedule); err != nil {
			errs = append(errs, field.Invalid(path.Child("schedule"), s.Schedule, err.Error()))
		}
		// What is stored already may name its time zone here.
		if strings.Contains(s.Schedule, "TZ") && (old == nil || !strings.Contains(old.Spec.Schedule, "TZ")) {
			errs = append(errs, field.Invalid(path.Child("schedule"), s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
		}
	}
	errs = append(errs, check.NonNegativePtr(s.StartingDeadlineSeconds, path.Child("startingDeadlineSeconds"))...)
	if old == nil || !check.Equal(s.TimeZone, old.Spec.TimeZone) {
		errs = append(errs, validateTimeZone(s.TimeZone, path.Child("timeZone"))...)
	}
	if s.ConcurrencyPolicy == "" {
		errs = append(errs, field.Required(path.Child("concurrencyPolicy"), ""))
	} else {
		errs = append(errs, check.OneOf(s.ConcurrencyPolicy, path.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	}
	var oldJob *batchv1.JobSpec
	if old != nil {
		oldJob = &old.Spec.JobTemplate.Spec
	}
	job := path.Child("jobTemplate", "spec")
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(job.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	if sel := s.JobTemplate.Spec.Selector; sel != nil {
		errs = append(errs, field.Invalid(job.Child("selector"), sel, "`selector` will be auto-generated"))
	}
	errs = append(errs, validateSpec(&s.JobTemplate.Spec, oldJob, job)...)
	errs = append(errs, check.NonNegativePtr(s.SuccessfulJobsHistoryLimit, path.Child("successfulJobsHistoryLimit"))...)
	return append(errs, check.NonNegativePtr(s.FailedJobsHistoryLimit, path.Child("failedJobsHistoryLimit"))...)
}

func validateTimeZone(zone *string, path *field.Path) field.ErrorList {
	switch {
	case zone == nil:
		return nil
	case *zone == "":
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	case strings.EqualFold(*zone, "Local"):
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")}
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		return field.ErrorList{field.Invalid(path, zone, err.Error())}
	}
	return nil
}
