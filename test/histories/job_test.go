package histories_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers/pods"
	"github.com/coxswain/cox/test/world"
)

// tally is what has really become of a Job's pods.
type tally struct {
	w                 *world.World
	j                 *batchv1.Job
	succeeded, failed map[types.UID]bool
	// either are pods that ended well after their deletion had begun: failed to
	// those who saw the deletion first, succeeded to the others.
	either  map[types.UID]bool
	byIndex map[string]int  // pods made
	done    map[string]bool // indexes
}

func newTally(w *world.World) *tally {
	return &tally{w: w, succeeded: map[types.UID]bool{}, failed: map[types.UID]bool{}, either: map[types.UID]bool{}, byIndex: map[string]int{}, done: map[string]bool{}}
}

func (y *tally) judge(c world.Change) {
	switch c.Resource {
	case "jobs":
		if c.New == nil {
			return
		}
		y.j = c.New.(*batchv1.Job)
		st := &y.j.Status
		uncounted := st.UncountedTerminatedPods
		if uncounted == nil {
			uncounted = &batchv1.UncountedTerminatedPods{}
		}
		if n := int(st.Succeeded) + len(uncounted.Succeeded); n > len(y.succeeded)+len(y.either) {
			y.w.Failf("the Job counts %d that succeeded, of %d", n, len(y.succeeded))
		}
		if n := int(st.Failed) + len(uncounted.Failed); n > len(y.failed) {
			y.w.Failf("the Job counts %d that failed, of %d", n, len(y.failed))
		}
		if old, ok := c.Old.(*batchv1.Job); ok && (old.Status.Succeeded > st.Succeeded || old.Status.Failed > st.Failed) {
			y.w.Failf("a count goes down: %+v after %+v", st, old.Status)
		}
	case "pods":
		y.pod(c)
	}
}

func index(p *corev1.Pod) string { return p.Annotations[batchv1.JobCompletionIndexAnnotation] }

func (y *tally) pod(c world.Change) {
	p, _ := c.New.(*corev1.Pod)
	if p == nil {
		old := c.Old.(*corev1.Pod)
		if !y.succeeded[old.UID] {
			y.failed[old.UID] = true
		}
		return
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded && !y.failed[p.UID]:
		y.succeeded[p.UID] = true
		y.done[index(p)] = true
	case p.Status.Phase == corev1.PodSucceeded && !y.succeeded[p.UID]:
		y.either[p.UID] = true
	case p.Status.Phase == corev1.PodFailed, p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded:
		y.failed[p.UID] = true
	}
	if c.Old != nil {
		return
	}
	y.byIndex[index(p)]++
	active := map[string]int{}
	n := 0
	for _, p := range world.InJudge[*corev1.Pod](y.w, "pods") {
		if pods.Active(p) {
			active[index(p)]++
			n++
		}
	}
	indexed := *y.j.Spec.CompletionMode == batchv1.IndexedCompletion
	if n > int(*y.j.Spec.Parallelism) {
		y.w.Failf("%d pods at once, more than %d", n, *y.j.Spec.Parallelism)
	}
	if indexed && active[index(p)] > 1 {
		y.w.Failf("%d pods of index %s", active[index(p)], index(p))
	}
	if indexed && y.done[index(p)] {
		y.w.Failf("index %s is run again, though it is done", index(p))
	}
	if !indexed && n+len(y.succeeded) > int(*y.j.Spec.Completions) {
		y.w.Failf("%d pods run and %d have succeeded, of %d", n, len(y.succeeded), *y.j.Spec.Completions)
	}
	if per := y.j.Spec.BackoffLimitPerIndex; per != nil && y.byIndex[index(p)] > int(*per)+1 {
		y.w.Failf("index %s is tried for the %d. time, more than %d", index(p), y.byIndex[index(p)], *per+1)
	}
}

// TestJobCounts runs Jobs whose pods fail, are deleted and lost, while their
// controller lives short lives: every pod that ended is counted once, no index
// runs twice at a time or after it is done, or more often than it may fail.
func TestJobCounts(t *testing.T) {
	world.Histories(t, 20, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		y := newTally(w)
		w.Judge(y.judge)
		bad := rnd.Float64() * 0.4
		k := w.Kubelets(4, func(_ *corev1.Pod, rnd *rand.Rand) world.Fate {
			f := world.Fate{Bind: seconds(rnd, 0.5), Start: seconds(rnd, 3), Stop: seconds(rnd, 5), Run: time.Second + seconds(rnd, 30)}
			if rnd.Float64() < bad {
				f.Exit = 1
			}
			return f
		})
		mode, completions := batchv1.NonIndexedCompletion, 3+rnd.IntN(12)
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "work"}, Spec: batchv1.JobSpec{
			Completions: ptr.To(int32(completions)), Parallelism: ptr.To(int32(1 + rnd.IntN(6))), CompletionMode: &mode, BackoffLimit: ptr.To[int32](1000),
			Template: template("work", "v0"),
		}}
		j.Spec.Template.Labels, j.Spec.Template.Spec.RestartPolicy = nil, corev1.RestartPolicyNever
		if rnd.IntN(2) == 0 {
			mode = batchv1.IndexedCompletion
			if rnd.IntN(2) == 0 {
				j.Spec.BackoffLimitPerIndex, j.Spec.BackoffLimit = ptr.To(int32(rnd.IntN(3))), nil
			}
			if rnd.IntN(4) == 0 {
				j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr.To(int32(1 + rnd.IntN(completions)))}}}
			}
		}
		if rnd.IntN(3) == 0 {
			j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
		}
		jobs := client.Jobs.In(w.Root, world.Namespace)
		_, err := jobs.Create(w.T.Context(), j)
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(30*time.Second, "job-controller", "pod-garbage-collector-controller")
		for range 15 {
			time.Sleep(seconds(rnd, 20))
			if rnd.IntN(6) == 0 {
				loseNode(w, k, fmt.Sprintf("node-%d", rnd.IntN(4)), rnd, func(string) {})
			}
			all := world.Objects[*corev1.Pod](w, "pods")
			if rnd.IntN(2) == 0 { // what knows of a failure may be gone before another try is made
				all = slices.DeleteFunc(all, func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodFailed })
			}
			if len(all) > 0 && rnd.IntN(2) == 0 {
				_ = client.Pods.In(w.Door("someone"), world.Namespace).Delete(w.T.Context(), all[rnd.IntN(len(all))].Name, client.Options{})
			}
		}
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		y.check(completions)
	})
}

// check looks at the end.
func (y *tally) check(completions int) {
	y.w.T.Helper()
	j, err := client.Jobs.In(y.w.Root, world.Namespace).Get(y.w.T.Context(), "work")
	y.w.Must(err)
	st := &j.Status
	over := ""
	for _, c := range st.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			over = string(c.Type)
		}
	}
	wrong := func(format string, args ...any) {
		y.w.T.Helper()
		y.w.T.Errorf("seed %d: at the end %s; %+v", y.w.Seed, fmt.Sprintf(format, args...), st)
	}
	if over == "" {
		wrong("the Job is not over")
	}
	if over == "Failed" && j.Spec.BackoffLimitPerIndex == nil {
		wrong("the Job has failed")
	}
	done := len(y.succeeded)
	if *j.Spec.CompletionMode == batchv1.IndexedCompletion {
		done = len(y.done)
	}
	if n := int(st.Succeeded); n < done || n > done+len(y.either) {
		wrong("%d have succeeded", done)
	}
	if n := int(st.Failed); (n > len(y.failed) || n < len(y.failed)-len(y.either)) && over == "Complete" && j.Spec.SuccessPolicy == nil {
		wrong("%d have failed", len(y.failed))
	}
	if over == "Complete" && j.Spec.SuccessPolicy == nil && (done > completions || done+len(y.either) < completions) {
		wrong("%d of %d are done", done, completions)
	}
	if u := st.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 || st.Active != 0 {
		wrong("something is left to count")
	}
	for _, p := range world.Objects[*corev1.Pod](y.w, "pods") {
		if !pods.Finished(p) || strings.Contains(fmt.Sprint(p.Finalizers), batchv1.JobTrackingFinalizer) {
			wrong("pod %s is %s, held by %v", p.Name, p.Status.Phase, p.Finalizers)
		}
	}
}
