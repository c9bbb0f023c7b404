package histories_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/test/world"
)

func over(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
	})
}

// runs judges the Jobs of one CronJob, which has a time every minute.
type runs struct {
	w      *world.World
	policy batchv1.ConcurrencyPolicy
	made   map[int]bool // by minute, as the name has it
}

func (r *runs) judge(c world.Change) {
	if c.Resource != "jobs" || c.Old != nil {
		return
	}
	j := c.New.(*batchv1.Job)
	minute, err := strconv.Atoi(j.Name[strings.LastIndexByte(j.Name, '-')+1:])
	if err != nil {
		r.w.Failf("%s: %v", j.Name, err)
	}
	if r.made[minute] {
		r.w.Failf("%s is made a second time", j.Name)
	}
	r.made[minute] = true
	if r.policy == batchv1.AllowConcurrent {
		return
	}
	for _, other := range world.InJudge[*batchv1.Job](r.w, "jobs") {
		if other.Name != j.Name && !over(other) && other.DeletionTimestamp == nil {
			r.w.Failf("%s is made while %s runs", j.Name, other.Name)
		}
	}
}

// TestCronJobTimes has a CronJob's controller live short lives for an hour: no
// time is served twice, Jobs run at the same time only if they may, and if
// they may, no time is left out.
func TestCronJobTimes(t *testing.T) {
	world.Histories(t, 9, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		policies := []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}
		r := &runs{w: w, policy: policies[w.Seed%3], made: map[int]bool{}}
		w.Judge(r.judge)
		jt := template("tick", "v0")
		jt.Spec.RestartPolicy = corev1.RestartPolicyNever
		_, err := client.CronJobs.In(w.Root, world.Namespace).Create(w.T.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "tick"}, Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", ConcurrencyPolicy: r.policy, SuccessfulJobsHistoryLimit: ptr.To(int32(rnd.IntN(3))),
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: jt}},
		}})
		w.Must(err)
		faults := world.Rough()
		faults.Lag = 2 * time.Second
		w.SetFaults(faults)
		calm := w.Lives(45*time.Second, "cronjob-controller")
		began := time.Now()
		// Who finishes the Jobs: some soon, some after the next time.
		for time.Since(began) < time.Hour {
			time.Sleep(seconds(rnd, 60))
			for _, j := range world.Objects[*batchv1.Job](w, "jobs") {
				if !over(j) && rnd.IntN(3) > 0 {
					finish(w, j)
				}
			}
		}
		calm()
		if r.policy != batchv1.AllowConcurrent {
			return
		}
		time.Sleep(30 * time.Second)
		for m := int(began.Unix())/60 + 1; m <= int(time.Now().Unix())/60; m++ {
			if !r.made[m] {
				w.T.Errorf("seed %d: minute %d has no Job", w.Seed, m)
			}
		}
	})
}

// finish completes a Job, as its controller would.
func finish(w *world.World, j *batchv1.Job) {
	_, err := client.Jobs.In(w.Door("job-controller"), world.Namespace).Mutate(w.T.Context(), j.Name, "status", func(j *batchv1.Job) (bool, error) {
		now := metav1.Now()
		j.Status.StartTime, j.Status.CompletionTime = &now, &now
		for _, t := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
			j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now})
		}
		j.Status.Succeeded = 1
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		w.T.Errorf("finishing %s: %v", j.Name, err)
	}
}
