package cronjob

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests need zones on any machine

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 1, 10, 30, 20, 0, time.UTC)

func cron(change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "c"}}
	cj.CreationTimestamp = metav1.NewTime(now.Add(-24 * time.Hour))
	cj.Spec.Schedule, cj.Spec.ConcurrencyPolicy, cj.Spec.TimeZone = "30 * * * *", batchv1.AllowConcurrent, ptr.To("UTC")
	cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = ptr.To[int32](1), ptr.To[int32](0)
	cj.Status.LastScheduleTime = &metav1.Time{Time: now.Add(-time.Hour)}
	for _, f := range change {
		f(cj)
	}
	return cj
}

func active(cj *batchv1.CronJob) {
	cj.Status.Active = []corev1.ObjectReference{{Name: "a", UID: "a"}}
}

func job(name string, how batchv1.JobConditionType, ago time.Duration) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	j.Status.StartTime = &metav1.Time{Time: now.Add(-ago)}
	if how != "" {
		j.Status.CompletionTime = &metav1.Time{Time: now.Add(-ago / 2)}
		j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
	}
	return j
}

func TestMake(t *testing.T) {
	running := []*batchv1.Job{job("a", "", time.Hour)}
	with := func(f func(*batchv1.CronJobSpec)) func(*batchv1.CronJob) {
		return func(cj *batchv1.CronJob) { f(&cj.Spec) }
	}
	for _, tc := range []struct {
		name   string
		cron   *batchv1.CronJob
		jobs   []*batchv1.Job
		start  string // the time of the job
		gone   string // replaced|history
		active int
		events string
	}{
		{"due", cron(), nil, "10:30", "|", 0, ""},
		{"not due", cron(func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime.Time = now.Add(-10 * time.Second) }), nil, "", "|", 0, ""},
		{"suspended", cron(with(func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })), nil, "", "|", 0, ""},
		{"allow", cron(active), running, "10:30", "|", 1, ""},
		{"forbid", cron(active, with(func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent })), running, "", "|", 1, "JobAlreadyActive"},
		{"forbid when it has ended", cron(active, with(func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent })), []*batchv1.Job{job("a", batchv1.JobComplete, time.Hour)}, "10:30", "|", 0, "SawCompletedJob"},
		{"replace", cron(active, with(func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent })), running, "10:30", "a|", 1, ""},
		{"within the deadline", cron(with(func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = ptr.To[int64](30) })), nil, "10:30", "|", 0, ""},
		{"too late", cron(with(func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = ptr.To[int64](10) })), nil, "", "|", 0, ""},
		{"many missed: the last one", cron(func(cj *batchv1.CronJob) {
			cj.Status.LastScheduleTime.Time = now.Add(-1000 * time.Hour)
		}), nil, "10:30", "|", 0, "TooManyMissedTimes"},
		{"many missed before the deadline", cron(func(cj *batchv1.CronJob) {
			cj.Status.LastScheduleTime.Time, cj.Spec.StartingDeadlineSeconds = now.Add(-1000*time.Hour), ptr.To[int64](7200)
		}), nil, "10:30", "|", 0, ""},
		{"went missing", cron(active), nil, "10:30", "|", 0, "MissingJob"},
		{"not ours to know", cron(), running, "10:30", "|", 0, "UnexpectedJob"},
		{"history", cron(), []*batchv1.Job{job("s1", batchv1.JobComplete, 3*time.Hour), job("s2", batchv1.JobComplete, 2*time.Hour), job("s0", batchv1.JobComplete, 4*time.Hour), job("f", batchv1.JobFailed, time.Hour)}, "10:30", "|f s0 s1", 0, ""},
		{"no such zone", cron(with(func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Nowhere") })), nil, "", "|", 0, "UnknownTimeZone"},
		{"no such schedule", cron(with(func(s *batchv1.CronJobSpec) { s.Schedule = "x" })), nil, "", "|", 0, "UnparseableSchedule"},
		{"a day that never comes", cron(with(func(s *batchv1.CronJobSpec) { s.Schedule = "0 0 31 2 *" })), nil, "", "|", 0, "InvalidSchedule"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := Make(tc.cron, tc.jobs, now)
			start := ""
			if plan.Start != nil {
				start = plan.At.Format("15:04")
			}
			names := func(js []*batchv1.Job) string {
				var out []string
				for _, j := range js {
					out = append(out, j.Name)
				}
				slices.Sort(out)
				return strings.Join(out, " ")
			}
			var events []string
			for _, e := range plan.Events {
				events = append(events, e.Reason)
			}
			got := fmt.Sprint(start, " ", names(plan.Replaced)+"|"+names(plan.History), " ", len(plan.Status.Active), " ", strings.Join(events, " "))
			if want := fmt.Sprint(tc.start, " ", tc.gone, " ", tc.active, " ", tc.events); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if plan.Start != nil && plan.Again != time.Hour-20*time.Second {
				t.Errorf("again %v", plan.Again)
			}
		})
	}
}

func TestNewJob(t *testing.T) {
	cj := cron()
	cj.Spec.JobTemplate.Labels = map[string]string{"a": "b"}
	tokyo, err := time.LoadLocation("Asia/Tokyo")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 1, 10, 30, 0, 0, time.UTC)
	j := newJob(cj, at.In(tokyo))
	if j.Name != fmt.Sprint("c-", at.Unix()/60) || j.Labels["a"] != "b" || j.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] != "2026-01-01T19:30:00+09:00" || !*j.OwnerReferences[0].Controller {
		t.Errorf("%+v", j.ObjectMeta)
	}
	plan := Make(cron(), []*batchv1.Job{job("s", batchv1.JobComplete, time.Hour)}, now)
	if plan.Status.LastSuccessfulTime == nil || !plan.Status.LastSuccessfulTime.Time.Equal(now.Add(-30*time.Minute)) {
		t.Errorf("lastSuccessfulTime %v", plan.Status.LastSuccessfulTime)
	}
}
