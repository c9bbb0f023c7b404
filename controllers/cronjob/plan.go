// Package cronjob starts Jobs when their time has come: cron jobs and their
// Jobs in; the Job to start, the Jobs to delete and the cron job's status out.
package cronjob

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/client"
)

// tooMany missed times are worth a warning.
const tooMany = 100

// Event is what the plan has to tell.
type Event struct{ Type, Reason, Message string }

// Plan is what one reconcile does.
type Plan struct {
	// Start is the Job to make, nil for none; At is the time it is for.
	Start *batchv1.Job
	At    time.Time
	// Replaced are running Jobs that the new one takes the place of, History
	// finished ones beyond the limits.
	Replaced, History []*batchv1.Job
	// Again is when the next time comes; 0 is never.
	Again  time.Duration
	Status batchv1.CronJobStatus
	Events []Event
}

// Make plans for a cron job. owned are the Jobs that it controls.
func Make(cj *batchv1.CronJob, owned []*batchv1.Job, now time.Time) Plan {
	plan := Plan{Status: *cj.Status.DeepCopy()}
	plan.observe(cj, owned)
	for _, j := range owned { // the write of the status after one was made may have failed
		if !servedLater(j, cj.Status.LastScheduleTime, now) {
			continue
		}
		if at, _ := servedAt(j); servedLater(j, plan.Status.LastScheduleTime, now) {
			plan.Status.LastScheduleTime = &metav1.Time{Time: at.Local()}
		}
		if ended(j) == "" && !slices.ContainsFunc(plan.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID }) {
			plan.Status.Active = append(plan.Status.Active, reference(j))
		}
	}
	if cj.DeletionTimestamp != nil {
		return plan
	}
	// A Job tells that its time is served until the status does, and so is not
	// collected before.
	told := slices.DeleteFunc(slices.Clone(owned), func(j *batchv1.Job) bool { return servedLater(j, cj.Status.LastScheduleTime, now) })
	plan.History = append(excess(told, batchv1.JobComplete, cj.Spec.SuccessfulJobsHistoryLimit),
		excess(told, batchv1.JobFailed, cj.Spec.FailedJobsHistoryLimit)...)
	if cj.Spec.Suspend != nil && *cj.Spec.Suspend {
		return plan
	}
	schedule, zone, ok := plan.schedule(cj)
	if !ok {
		return plan
	}
	now = now.In(zone)
	since := cj.CreationTimestamp.Time
	if t := plan.Status.LastScheduleTime; t != nil {
		since = t.Time
	}
	deadline := cj.Spec.StartingDeadlineSeconds
	if deadline != nil {
		if from := now.Add(-time.Duration(*deadline) * time.Second); from.After(since) {
			since = from
		}
	}
	at, missed := schedule.Due(since.In(zone), now)
	next := schedule.Next(now)
	if !next.IsZero() {
		plan.Again = next.Sub(now)
	} else if at.IsZero() {
		// Upstream's words for a schedule that no day ever meets.
		plan.event(corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : time difference between two schedules is less than 1 second", cj.Spec.Schedule)
	}
	if missed > tooMany {
		plan.event(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	switch {
	case at.IsZero():
		return plan
	case deadline != nil && at.Add(time.Duration(*deadline)*time.Second).Before(now):
		plan.event(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return plan
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(plan.Status.Active) > 0:
		plan.event(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return plan
	case cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, j := range owned {
			if slices.ContainsFunc(plan.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID }) {
				plan.Replaced = append(plan.Replaced, j)
			}
		}
	}
	plan.Start, plan.At = newJob(cj, at), at
	return plan
}

func (plan *Plan) event(kind, reason, format string, args ...any) {
	plan.Events = append(plan.Events, Event{kind, reason, fmt.Sprintf(format, args...)})
}

// schedule reads the schedule and the zone that it is in.
func (plan *Plan) schedule(cj *batchv1.CronJob) (*Schedule, *time.Location, bool) {
	zone := time.Local
	if z := cj.Spec.TimeZone; z != nil {
		var err error
		if zone, err = time.LoadLocation(*z); err != nil {
			plan.event(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *z, err)
			return nil, nil, false
		}
	}
	s, err := Parse(cj.Spec.Schedule)
	if err != nil {
		plan.event(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %s : %s", cj.Spec.Schedule, err)
		return nil, nil, false
	}
	if s.Zone != nil {
		zone = s.Zone
	}
	return s, zone, true
}

// observe takes Jobs that have ended or gone out of the active ones.
func (plan *Plan) observe(cj *batchv1.CronJob, owned []*batchv1.Job) {
	byUID := map[types.UID]*batchv1.Job{}
	for _, j := range owned {
		byUID[j.UID] = j
		if t := j.Status.CompletionTime; t != nil && ended(j) == batchv1.JobComplete &&
			(plan.Status.LastSuccessfulTime == nil || plan.Status.LastSuccessfulTime.Before(t)) {
			plan.Status.LastSuccessfulTime = t.DeepCopy()
		}
		active := slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
		if !active && ended(j) == "" && j.DeletionTimestamp == nil {
			plan.event(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		}
	}
	plan.Status.Active = nil
	for _, ref := range cj.Status.Active {
		switch j := byUID[ref.UID]; {
		case j == nil:
			plan.event(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		case ended(j) != "":
			plan.event(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, ended(j))
		default:
			plan.Status.Active = append(plan.Status.Active, ref)
		}
	}
}

// ended is the condition that ended the Job, "" while it runs.
func ended(j *batchv1.Job) batchv1.JobConditionType {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// excess are the oldest Jobs that ended so, beyond the limit; nil keeps all.
func excess(owned []*batchv1.Job, how batchv1.JobConditionType, limit *int32) []*batchv1.Job {
	if limit == nil {
		return nil
	}
	var all []*batchv1.Job
	for _, j := range owned {
		if ended(j) == how && j.DeletionTimestamp == nil {
			all = append(all, j)
		}
	}
	slices.SortFunc(all, func(a, b *batchv1.Job) int {
		if c := startOf(a).Compare(startOf(b)); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all[:max(len(all)-int(*limit), 0)]
}

// servedLater says that a Job was made for a time after last, nil being before
// all. A time to come is nobody's that we made.
func servedLater(j *batchv1.Job, last *metav1.Time, now time.Time) bool {
	at, ok := servedAt(j)
	return ok && !at.After(now) && (last == nil || at.After(last.Time))
}

// reference is how a cron job's status names a Job that runs.
func reference(j *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: client.Jobs.GroupVersion().String(), Kind: client.Jobs.Kind,
		Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion,
	}
}

// servedAt is the time that a Job was made for; ok is false for one that was
// made by hand.
func servedAt(j *batchv1.Job) (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	return at, err == nil
}

func startOf(j *batchv1.Job) time.Time {
	if j.Status.StartTime != nil {
		return j.Status.StartTime.Time
	}
	return j.CreationTimestamp.Time
}

// newJob makes the Job for a time. Its name is the same at every try, so that
// no time is served twice.
func newJob(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	j := &batchv1.Job{Spec: *cj.Spec.JobTemplate.Spec.DeepCopy()}
	j.Namespace, j.Name = cj.Namespace, fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
	j.Labels = maps.Clone(cj.Spec.JobTemplate.Labels)
	j.Annotations = maps.Clone(cj.Spec.JobTemplate.Annotations)
	if j.Annotations == nil {
		j.Annotations = map[string]string{}
	}
	zone := time.UTC
	if cj.Spec.TimeZone != nil {
		zone = at.Location()
	}
	j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	j.CreationTimestamp = metav1.Time{}
	j.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(cj, client.CronJobs.GVK())}
	return j
}
