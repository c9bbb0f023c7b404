package job

import (
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Unix(1e9, 0)

func testJob(change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "j", UID: "j"}}
	j.Spec = batchv1.JobSpec{Completions: ptr.To[int32](1), Parallelism: ptr.To[int32](1), BackoffLimit: ptr.To[int32](6)}
	j.Status.StartTime = &metav1.Time{Time: now.Add(-time.Minute)}
	for _, f := range change {
		f(j)
	}
	return j
}

func size(completions, parallelism int32) func(*batchv1.Job) {
	return func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = &completions, &parallelism }
}

func asIndexed(j *batchv1.Job) { j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func testPod(name string, phase corev1.PodPhase, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), Finalizers: []string{batchv1.JobTrackingFinalizer}}}
	p.Status.Phase = phase
	if phase == corev1.PodFailed || phase == corev1.PodSucceeded {
		code := int32(0)
		if phase == corev1.PodFailed {
			code = 3
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now.Add(-5 * time.Second))}}}}
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func at(i int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: fmt.Sprint(i)}
	}
}

func ago(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(now.Add(-d))
	}
}

func released(p *corev1.Pod) { p.Finalizers = nil }
func dying(p *corev1.Pod)    { p.DeletionTimestamp = &metav1.Time{Time: now} }

const (
	running = corev1.PodRunning
	ok      = corev1.PodSucceeded
	bad     = corev1.PodFailed
)

func TestMake(t *testing.T) {
	for _, tc := range []struct {
		name string
		j    *batchv1.Job
		pods []*corev1.Pod
		// create delete release | active succeeded failed uncounted+ uncounted- | conditions
		want  string
		again time.Duration
	}{
		{"start", testJob(size(5, 2)), nil, "2 0 0 | 2 0 0 0 0 | []", 0},
		{"running", testJob(size(5, 2)), []*corev1.Pod{testPod("a", running), testPod("b", running)}, "0 0 0 | 2 0 0 0 0 | []", 0},
		{"one ended: counted once its finalizer is gone", testJob(size(5, 2)), []*corev1.Pod{testPod("a", ok), testPod("b", running)}, "1 0 1 | 2 0 0 1 0 | []", 0},
		{"counted", testJob(size(5, 2), func(j *batchv1.Job) {
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a"}}
		}), []*corev1.Pod{testPod("a", ok, released), testPod("b", running)}, "1 0 0 | 2 1 0 0 0 | []", 0},
		{"counted although the pod is gone", testJob(size(5, 2), func(j *batchv1.Job) {
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"a"}}
		}), []*corev1.Pod{testPod("b", running), testPod("c", running)}, "0 0 0 | 2 0 1 0 0 | []", 0},
		{"no more pods than completions are left", testJob(size(3, 5), func(j *batchv1.Job) { j.Status.Succeeded = 1 }), []*corev1.Pod{testPod("b", running)}, "1 0 0 | 2 1 0 0 0 | []", 0},
		{"less parallel", testJob(size(5, 1)), []*corev1.Pod{testPod("a", running), testPod("b", running)}, "0 1 0 | 1 0 0 0 0 | []", 0},
		{"enough, not yet counted", testJob(), []*corev1.Pod{testPod("a", ok)}, "0 0 1 | 0 0 0 1 0 | [SuccessCriteriaMet:CompletionsReached]", 0},
		{"enough", testJob(func(j *batchv1.Job) { j.Status.Succeeded = 1 }), []*corev1.Pod{testPod("a", ok, released)}, "0 0 0 | 0 1 0 0 0 | [SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached]", 0},
		{"a work queue ends when all pods have", testJob(func(j *batchv1.Job) {
			j.Spec.Completions, j.Spec.Parallelism, j.Status.Succeeded = nil, ptr.To[int32](2), 1
		}),
			[]*corev1.Pod{testPod("b", running)}, "0 0 0 | 1 1 0 0 0 | []", 0},
		{"a failure is tried again later", testJob(), []*corev1.Pod{testPod("a", bad)}, "0 0 1 | 0 0 0 0 1 | []", 5 * time.Second},
		{"later", testJob(func(j *batchv1.Job) { j.Status.Failed = 1 }), []*corev1.Pod{testPod("a", bad, released, ago(11*time.Second))}, "1 0 0 | 1 0 1 0 0 | []", 0},
		{"failures in a row wait longer", testJob(func(j *batchv1.Job) { j.Status.Failed = 3 }), []*corev1.Pod{
			testPod("a", bad, released, ago(time.Minute)), testPod("b", bad, released, ago(40*time.Second)), testPod("c", bad, released, ago(10*time.Second)),
		}, "0 0 0 | 0 0 3 0 0 | []", 30 * time.Second},
		{"too many", testJob(func(j *batchv1.Job) { j.Spec.BackoffLimit, j.Status.Failed = ptr.To[int32](1), 1 }), []*corev1.Pod{testPod("b", bad)},
			"0 0 1 | 0 0 1 0 1 | [FailureTarget:BackoffLimitExceeded]", 0},
		{"too many, all counted", testJob(func(j *batchv1.Job) { j.Spec.BackoffLimit, j.Status.Failed = ptr.To[int32](1), 2 }), nil,
			"0 0 0 | 0 0 2 0 0 | [FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded]", 0},
		{"a pod being deleted has failed", testJob(), []*corev1.Pod{testPod("a", running, dying)}, "0 0 1 | 0 0 0 0 1 | []", 10 * time.Second},
		{"unless only real failures count", testJob(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed) }),
			[]*corev1.Pod{testPod("a", running, dying)}, "0 0 0 | 0 0 0 0 0 | []", 0},
		{"too late", testJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](60) }), []*corev1.Pod{testPod("a", running)},
			"0 1 0 | 0 0 0 0 0 | [FailureTarget:DeadlineExceeded]", 0},
		{"not yet late", testJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](100) }), []*corev1.Pod{testPod("a", running)},
			"0 0 0 | 1 0 0 0 0 | []", 40 * time.Second},
		{"suspended", testJob(func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }), []*corev1.Pod{testPod("a", running)},
			"0 1 0 | 0 0 0 0 0 | [Suspended:JobSuspended]", 0},
		{"suspending is no failure", testJob(func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }), []*corev1.Pod{testPod("a", running, dying)},
			"0 0 1 | 0 0 0 0 0 | [Suspended:JobSuspended]", 0},
		{"indexes", testJob(size(5, 3), asIndexed, func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.Succeeded = "0", 1 }),
			[]*corev1.Pod{testPod("a", ok, at(2)), testPod("b", running, at(1)), testPod("c", running, at(1))}, "2 1 1 | 3 2 0 0 0 | []", 0},
		{"finished", testJob(func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
		}), []*corev1.Pod{testPod("a", ok)}, "0 0 1 | 0 0 0 0 0 | [Complete:]", 0},
		{"fail the job", testJob(size(3, 3), func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{3}}}}}
		}), []*corev1.Pod{testPod("a", bad), testPod("b", running)}, "0 1 1 | 0 0 0 0 1 | [FailureTarget:PodFailurePolicy]", 0},
		{"ignore disruptions", testJob(func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
		}), []*corev1.Pod{testPod("a", bad, func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
		})}, "1 0 1 | 1 0 0 0 0 | []", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := tc.j.DeepCopy()
			plan := Make(tc.j, tc.pods, now)
			st := plan.Status
			u := st.UncountedTerminatedPods
			if u == nil {
				u = &batchv1.UncountedTerminatedPods{}
			}
			conds := []string{}
			for _, c := range st.Conditions {
				if c.Status == corev1.ConditionTrue {
					conds = append(conds, string(c.Type)+":"+c.Reason)
				}
			}
			got := fmt.Sprintf("%d %d %d | %d %d %d %d %d | %v", len(plan.Create), len(plan.Delete), len(plan.Release),
				st.Active, st.Succeeded, st.Failed, len(u.Succeeded), len(u.Failed), conds)
			if got != tc.want || plan.Again != tc.again {
				t.Errorf("got  %s again %v\nwant %s again %v", got, plan.Again, tc.want, tc.again)
			}
			if fmt.Sprint(before) != fmt.Sprint(tc.j) {
				t.Error("the job was changed")
			}
		})
	}
}

func TestIndexes(t *testing.T) {
	for _, text := range []string{"", "0", "0,1", "0-2", "1,3-5,7", "0-2,4,5,7-9"} {
		if got := parseIndexes(text, 10).String(); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := parseIndexes("3-99,x,-2", 5); !slices.Equal(got, indexSet{3, 4}) {
		t.Errorf("%v", got)
	}
	j := testJob(size(4, 2), asIndexed)
	plan := Make(j, []*corev1.Pod{testPod("a", running, at(0)), testPod("b", running, at(9))}, now)
	if len(plan.Delete) != 1 || plan.Delete[0].Name != "b" || len(plan.Create) != 1 || plan.Create[0].Index != 1 {
		t.Errorf("%+v", plan)
	}
}

func TestBackoffPerIndex(t *testing.T) {
	j := testJob(size(3, 3), asIndexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr.To[int32](1) })
	failures := func(n int) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations[batchv1.JobIndexFailureCountAnnotation] = fmt.Sprint(n) }
	}
	plan := Make(j, []*corev1.Pod{testPod("a", bad, at(0), failures(0), ago(11*time.Second)), testPod("b", bad, at(1), failures(1)), testPod("c", running, at(2))}, now)
	if *plan.Status.FailedIndexes != "1" || len(plan.Create) != 1 || plan.Create[0] != (NewPod{Index: 0, Failures: 1}) {
		t.Errorf("failed %q, create %+v", *plan.Status.FailedIndexes, plan.Create)
	}
	j.Status.FailedIndexes, j.Status.CompletedIndexes = ptr.To("1"), "0,2"
	plan = Make(j, nil, now)
	if !conditionTrue(&plan.Status, batchv1.JobFailed) || getCondition(&plan.Status, batchv1.JobFailed).Reason != "FailedIndexes" {
		t.Errorf("%+v", plan.Status.Conditions)
	}
}

func TestSuccessPolicy(t *testing.T) {
	j := testJob(size(5, 5), asIndexed, func(j *batchv1.Job) {
		j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0,2-4"), SucceededCount: ptr.To[int32](2)}}}
	})
	plan := Make(j, []*corev1.Pod{testPod("a", ok, at(0)), testPod("b", ok, at(1)), testPod("c", running, at(2))}, now)
	if conditionTrue(&plan.Status, batchv1.JobSuccessCriteriaMet) {
		t.Error("index 1 is not among those that count")
	}
	plan = Make(j, []*corev1.Pod{testPod("a", ok, at(0)), testPod("b", ok, at(3)), testPod("c", running, at(2))}, now)
	if c := getCondition(&plan.Status, batchv1.JobSuccessCriteriaMet); c == nil || c.Reason != "SuccessPolicy" || c.Message != "Matched rules at index 0" || len(plan.Delete) != 1 {
		t.Errorf("%+v", plan)
	}
}

func TestNewPod(t *testing.T) {
	j := testJob(asIndexed)
	j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c"}}
	p := newPod(j, &metav1.OwnerReference{UID: "j"}, NewPod{Index: 4})
	if p.GenerateName != "j-4-" || p.Spec.Hostname != "j-4" || p.Labels[batchv1.JobCompletionIndexAnnotation] != "4" ||
		p.Annotations[batchv1.JobCompletionIndexAnnotation] != "4" || p.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" || !hasFinalizer(p) {
		t.Errorf("%+v", p)
	}
	if len(j.Spec.Template.Spec.Containers[0].Env) > 0 || j.Spec.Template.Labels != nil {
		t.Error("the template was changed")
	}
}

func TestDeleteIn(t *testing.T) {
	j := testJob(func(j *batchv1.Job) {
		j.Spec.TTLSecondsAfterFinished = ptr.To[int32](100)
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-40 * time.Second))}}
	})
	if d, ok := deleteIn(j, now); !ok || d != time.Minute {
		t.Errorf("%v %v", d, ok)
	}
	if _, ok := deleteIn(testJob(), now); ok {
		t.Error("a job without ttl is to be deleted")
	}
}
