package histories_test

import (
	"fmt"
	"math/rand/v2"
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

// Exit codes that the rules of a Job's pod failure policy know; 1 is a failure
// like any other.
const (
	exitIgnored   = 3
	exitFailIndex = 5
	exitFailJob   = 42
)

// ruled judges a Job with a pod failure policy or a success policy.
type ruled struct {
	w       *world.World
	j       *batchv1.Job
	counted map[types.UID]bool // pods whose failure counts
	// What was seen: an exit that fails the Job before anything was decided,
	// indexes whose exit fails them, and how many pods were ignored.
	fatal   bool
	indexes map[string]bool
	ignored int
}

// decided is the first condition after which a Job has no more pods made.
func (r *ruled) decided() *batchv1.JobCondition {
	for i := range r.j.Status.Conditions {
		switch c := &r.j.Status.Conditions[i]; c.Type {
		case batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget, batchv1.JobComplete, batchv1.JobFailed:
			return c
		}
	}
	return nil
}

func (r *ruled) judge(c world.Change) {
	switch o := c.Object().(type) {
	case *batchv1.Job:
		if c.New == nil {
			return
		}
		r.j = o
		n := int(o.Status.Failed)
		if u := o.Status.UncountedTerminatedPods; u != nil {
			n += len(u.Failed)
		}
		if n > len(r.counted) {
			r.w.Failf("the Job counts %d failures, of %d that count", n, len(r.counted))
		}
		if d := r.decided(); d != nil && d.Reason == batchv1.JobReasonPodFailurePolicy && !r.fatal {
			r.w.Failf("the Job fails by its policy, without reason")
		}
		if f := ptr.Deref(o.Status.FailedIndexes, ""); f != "" && len(r.indexes) == 0 {
			r.w.Failf("indexes %s have failed, without reason", f)
		}
	case *corev1.Pod:
		r.pod(c, o)
	}
}

func (r *ruled) pod(c world.Change, p *corev1.Pod) {
	old, _ := c.Old.(*corev1.Pod)
	switch {
	case old == nil:
		if d := r.decided(); d != nil {
			r.w.Failf("%s is made, though %s is said", p.Name, d.Type)
		}
		if r.indexes[index(p)] && r.j.Status.FailedIndexes != nil && *r.j.Status.FailedIndexes == index(p) {
			r.w.Failf("index %s is run again, though it has failed", index(p))
		}
	case c.New == nil && !pods.Finished(old):
		r.counted[p.UID] = true
	case p.Status.Phase == corev1.PodFailed && old.Status.Phase != corev1.PodFailed:
		switch exit(p) {
		case exitIgnored:
			r.ignored++
			return
		case exitFailJob:
			r.fatal = r.fatal || r.decided() == nil
		case exitFailIndex:
			r.indexes[index(p)] = true
		}
		r.counted[p.UID] = true
	}
}

// exit is what a pod's container ended with, -1 if it did not end by itself.
func exit(p *corev1.Pod) int32 {
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Terminated != nil {
			return s.State.Terminated.ExitCode
		}
	}
	return -1
}

func onExit(action batchv1.PodFailurePolicyAction, code int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}}}
}

// TestJobRules runs Jobs with a pod failure policy (KEP-3329, KEP-3850) or a
// success policy (KEP-3998), while their controller lives short lives: a
// failure that is to be ignored costs nothing, one that ends an index or the
// Job ends it, and what is decided once is decided.
func TestJobRules(t *testing.T) {
	world.Histories(t, 20, func(w *world.World) {
		rnd := rand.New(rand.NewPCG(w.Seed, 1))
		r := &ruled{w: w, counted: map[types.UID]bool{}, indexes: map[string]bool{}}
		w.Judge(r.judge)
		completions, mode := 3+rnd.IntN(8), batchv1.IndexedCompletion
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: "work"}, Spec: batchv1.JobSpec{
			Completions: ptr.To(int32(completions)), Parallelism: ptr.To(int32(1 + rnd.IntN(5))), CompletionMode: &mode,
			BackoffLimit: ptr.To[int32](0), Template: template("work", "v0"), PodReplacementPolicy: ptr.To(batchv1.Failed),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{onExit(batchv1.PodFailurePolicyActionIgnore, exitIgnored)}},
		}}
		j.Spec.Template.Labels, j.Spec.Template.Spec.RestartPolicy = nil, corev1.RestartPolicyNever
		var codes []int32
		kind := rnd.IntN(4)
		switch kind {
		case 0: // only what is ignored goes wrong, and nothing else may
			codes = []int32{exitIgnored}
			if rnd.IntN(2) == 0 {
				mode = batchv1.NonIndexedCompletion
			}
		case 1:
			j.Spec.BackoffLimit = ptr.To[int32](1000)
			j.Spec.PodFailurePolicy.Rules = append(j.Spec.PodFailurePolicy.Rules, onExit(batchv1.PodFailurePolicyActionFailJob, exitFailJob))
			codes = []int32{1, exitIgnored, 1, exitIgnored, exitFailJob}
		case 2:
			j.Spec.BackoffLimit, j.Spec.BackoffLimitPerIndex = nil, ptr.To[int32](1000)
			j.Spec.PodFailurePolicy.Rules = append(j.Spec.PodFailurePolicy.Rules, onExit(batchv1.PodFailurePolicyActionFailIndex, exitFailIndex))
			codes = []int32{1, exitIgnored, exitFailIndex}
		case 3:
			j.Spec.BackoffLimit = ptr.To[int32](1000)
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("1-2"), SucceededCount: ptr.To(int32(1 + rnd.IntN(2)))}}}
			codes = []int32{1, exitIgnored}
		}
		bad := rnd.Float64() * 0.5
		w.Kubelets(4, func(_ *corev1.Pod, rnd *rand.Rand) world.Fate {
			f := world.Fate{Bind: seconds(rnd, 0.5), Start: seconds(rnd, 3), Stop: seconds(rnd, 5), Run: time.Second + seconds(rnd, 30)}
			if rnd.Float64() < bad {
				f.Exit = codes[rnd.IntN(len(codes))]
			}
			return f
		})
		jobs := client.Jobs.In(w.Root, world.Namespace)
		_, err := jobs.Create(w.T.Context(), j)
		w.Must(err)
		w.SetFaults(world.Rough())
		calm := w.Lives(20*time.Second, "job-controller")
		time.Sleep(4 * time.Minute)
		calm()
		w.SetFaults(world.Faults{})
		w.Settle()
		r.check(kind)
	})
}

func (r *ruled) check(kind int) {
	r.w.T.Helper()
	j, err := client.Jobs.In(r.w.Root, world.Namespace).Get(r.w.T.Context(), "work")
	r.w.Must(err)
	over := map[batchv1.JobConditionType]string{}
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			over[c.Type] = c.Reason
		}
	}
	want := map[batchv1.JobConditionType]string{batchv1.JobSuccessCriteriaMet: batchv1.JobReasonCompletionsReached, batchv1.JobComplete: batchv1.JobReasonCompletionsReached}
	switch {
	case kind == 1 && r.fatal:
		want = map[batchv1.JobConditionType]string{batchv1.JobFailureTarget: batchv1.JobReasonPodFailurePolicy, batchv1.JobFailed: batchv1.JobReasonPodFailurePolicy}
	case kind == 2 && len(r.indexes) > 0:
		want = map[batchv1.JobConditionType]string{batchv1.JobFailureTarget: batchv1.JobReasonFailedIndexes, batchv1.JobFailed: batchv1.JobReasonFailedIndexes}
	case kind == 3:
		want = map[batchv1.JobConditionType]string{batchv1.JobSuccessCriteriaMet: batchv1.JobReasonSuccessPolicy, batchv1.JobComplete: batchv1.JobReasonSuccessPolicy}
	}
	if fmt.Sprint(over) != fmt.Sprint(want) {
		r.w.T.Errorf("seed %d: at the end %v, want %v; %+v", r.w.Seed, over, want, j.Status)
	}
	if kind == 0 && j.Status.Failed != 0 {
		r.w.T.Errorf("seed %d: %d failures are counted, %d were to be ignored", r.w.Seed, j.Status.Failed, r.ignored)
	}
}
