package controllers_test

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// A cron job that has slept for a while starts the one Job that is due, sees
// it end, and keeps no more history than it is told.
func TestCronJobStartsWhatIsDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ns, ctx := w.namespace("cron"), t.Context()
	crons := client.CronJobs.In(w.root, ns)
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tick"}}
	cj.Spec.Schedule, cj.Spec.TimeZone, cj.Spec.Suspend = "0 0 1 * *", ptr.To("Etc/UTC"), ptr.To(true)
	cj.Spec.SuccessfulJobsHistoryLimit = ptr.To[int32](0)
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	cj.Spec.JobTemplate.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "v1"}}
	_, err := crons.Create(ctx, cj)
	w.must(err)
	_, err = crons.Mutate(ctx, "tick", "status", func(cj *batchv1.CronJob) (bool, error) {
		cj.Status.LastScheduleTime = &metav1.Time{Time: time.Now().Add(-40 * 24 * time.Hour)}
		return true, nil
	})
	w.must(err)
	_, err = crons.Mutate(ctx, "tick", "", func(cj *batchv1.CronJob) (bool, error) { cj.Spec.Suspend = ptr.To(false); return true, nil })
	w.must(err)
	jobs := eventually(w, client.Jobs, ns, "one, started", func(js []*batchv1.Job) bool { return len(js) == 1 })
	if !strings.HasPrefix(jobs[0].Name, "tick-") || jobs[0].Annotations[batchv1.CronJobScheduledTimestampAnnotation] == "" {
		t.Errorf("%+v", jobs[0].ObjectMeta)
	}
	object(w, client.CronJobs, ns, "tick", "active", func(cj *batchv1.CronJob) bool {
		return len(cj.Status.Active) == 1 && cj.Status.Active[0].UID == jobs[0].UID && cj.Status.LastScheduleTime.Day() == 1
	})
	eventually(w, client.Pods, ns, "running", func(ps []*corev1.Pod) bool { return len(ps) == 1 && ps[0].Status.Phase == corev1.PodRunning })
	ps, _, err := client.Pods.In(w.root, ns).List(ctx, client.Options{})
	w.must(err)
	_, err = client.Pods.In(w.root, ns).Mutate(ctx, ps[0].Name, "status", func(p *corev1.Pod) (bool, error) { p.Status.Phase = corev1.PodSucceeded; return true, nil })
	w.must(err)
	object(w, client.CronJobs, ns, "tick", "done", func(cj *batchv1.CronJob) bool {
		return len(cj.Status.Active) == 0 && cj.Status.LastSuccessfulTime != nil
	})
	eventually(w, client.Jobs, ns, "none kept", func(js []*batchv1.Job) bool { return len(js) == 0 })
}
