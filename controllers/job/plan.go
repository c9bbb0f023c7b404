// Package job runs pods to completion: a Job and its pods in; pods to make,
// delete and release, and the Job's status out.
package job

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/controllers/pods"
)

const (
	// burst bounds the pods that one reconcile makes, deletes or counts.
	burst = 500
	// A pod that failed is replaced after backoffBase, doubled with every
	// further failure in a row up to backoffMost.
	backoffBase = 10 * time.Second
	backoffMost = 10 * time.Minute
)

// Plan is what one reconcile does. The status is written before the pods in
// Release lose their finalizer: what has been counted is then on record.
type Plan struct {
	// Create has an entry per pod to make: its completion index, -1 without.
	Create []NewPod
	Delete []*corev1.Pod
	// Track are adopted pods that lack the finalizer.
	Track []*corev1.Pod
	// Release are pods that have been counted and may go.
	Release []*corev1.Pod
	Status  batchv1.JobStatus
	Events  []Event
	// Again is when time alone changes something; 0 is never.
	Again time.Duration
}

// NewPod is a pod to make. Failures and ignored failures of its index are
// handed on when the Job limits them per index.
type NewPod struct {
	Index             int
	Failures, Ignored int32
}

// Event is about the Job.
type Event struct{ Type, Reason, Message string }

// planner holds a Job while its plan is made.
type planner struct {
	j    *batchv1.Job
	now  time.Time
	plan Plan

	active      []*corev1.Pod
	terminating int32
	ending      map[int]bool // indexes of pods that are being deleted and still run
	ready       int32
	finished    []*corev1.Pod // all, for the back-off
	tracked     int           // pods that still carry the finalizer
	done        indexSet      // completed indexes
	failedIdx   indexSet      // indexes that failed for good
	failJob     string        // message of the pod failure policy's FailJob
	succeeded   int32
	failed      int32
}

// Make plans for a Job. owned are all pods that it controls.
func Make(j *batchv1.Job, owned []*corev1.Pod, now time.Time) Plan {
	p := &planner{j: j, now: now, ending: map[int]bool{}}
	p.plan.Status = *j.Status.DeepCopy()
	if Finished(j) {
		for _, pod := range owned {
			if hasFinalizer(pod) {
				p.plan.Release = append(p.plan.Release, pod)
			}
		}
		return p.plan
	}
	p.count(owned)
	if j.DeletionTimestamp != nil {
		p.numbers(0, 0)
		return p.plan
	}
	p.suspendOrResume()
	verdict := p.verdict()
	switch {
	case verdict != nil:
		p.finish(verdict)
	case suspended(j):
		p.deletePods(p.active)
	default:
		p.manage()
	}
	if verdict == nil {
		p.holdLastFailures()
	}
	p.numbers(len(p.plan.Create), len(p.plan.Delete))
	return p.plan
}

// holdLastFailures keeps a failed pod until its index has another: it alone
// knows how often the index has failed (KEP-3850).
func (p *planner) holdLastFailures() {
	if p.j.Spec.BackoffLimitPerIndex == nil {
		return
	}
	running := p.busy()
	p.plan.Release = slices.DeleteFunc(p.plan.Release, func(pod *corev1.Pod) bool {
		i := indexOf(pod)
		return p.hasFailed(pod) && i >= 0 && i < int(*p.j.Spec.Completions) && !running[i] && !p.done.has(i) && !p.failedIdx.has(i)
	})
}

// busy are the indexes that have a pod. One whose pod is being deleted is
// among them if the Job waits for that pod's end.
func (p *planner) busy() map[int]bool {
	out := map[int]bool{}
	for _, pod := range p.active {
		out[indexOf(pod)] = true
	}
	if onlyFailed(p.j) {
		maps.Copy(out, p.ending)
	}
	return out
}

// Finished says that the Job has ended, one way or the other.
func Finished(j *batchv1.Job) bool {
	return conditionTrue(&j.Status, batchv1.JobComplete) || conditionTrue(&j.Status, batchv1.JobFailed)
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

func hasFinalizer(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
}

// onlyFailed says that only pods that have really ended are replaced and
// counted, not those that are being deleted.
func onlyFailed(j *batchv1.Job) bool {
	return j.Spec.PodFailurePolicy != nil || j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}

// hasFailed: a pod that is being deleted counts as failed, unless the Job
// waits for its end.
func (p *planner) hasFailed(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded && !onlyFailed(p.j) && !suspended(p.j)
}

// manage makes and deletes pods towards the parallelism.
func (p *planner) manage() {
	want := parallelism(p.j)
	if c := p.j.Spec.Completions; c != nil {
		want = min(want, int(*c-p.succeeded)-len(p.failedIdx))
	} else if p.succeeded > 0 {
		want = min(want, len(p.active)) // the work is done: no new pods
	}
	want = max(want, 0)
	p.dropDuplicates()
	active := len(p.active) - len(p.plan.Delete)
	if active > want {
		rest := slices.DeleteFunc(slices.Clone(p.active), func(x *corev1.Pod) bool { return slices.Contains(p.plan.Delete, x) })
		slices.SortStableFunc(rest, pods.DeletionOrder(func(*corev1.Pod) int { return 0 }, p.now))
		p.deletePods(rest[:min(active-want, burst)])
		return
	}
	missing := want - active
	if onlyFailed(p.j) {
		missing -= int(p.terminating)
	}
	if missing <= 0 {
		return
	}
	if p.j.Spec.BackoffLimitPerIndex == nil {
		if wait := p.backoff(p.finished); wait > 0 {
			p.again(wait)
			return
		}
	}
	missing = min(missing, burst)
	if !indexed(p.j) {
		for range missing {
			p.plan.Create = append(p.plan.Create, NewPod{Index: -1})
		}
		return
	}
	p.createIndexes(missing)
}

func parallelism(j *batchv1.Job) int {
	if j.Spec.Parallelism == nil {
		return 1
	}
	return int(*j.Spec.Parallelism)
}

// dropDuplicates deletes pods of an index that has a pod already, or that
// does not exist (any more).
func (p *planner) dropDuplicates() {
	if !indexed(p.j) {
		return
	}
	byAge := slices.Clone(p.active)
	slices.SortStableFunc(byAge, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	seen := map[int]bool{}
	for _, pod := range byAge {
		i := indexOf(pod)
		if i < 0 || i >= int(*p.j.Spec.Completions) || seen[i] || p.done.has(i) || p.failedIdx.has(i) {
			p.deletePods([]*corev1.Pod{pod})
			continue
		}
		seen[i] = true
	}
}

func (p *planner) createIndexes(missing int) {
	busy := p.busy()
	last := map[int]*corev1.Pod{}
	perIndex := p.j.Spec.BackoffLimitPerIndex != nil
	for _, pod := range p.finished {
		i := indexOf(pod)
		if perIndex && (last[i] == nil || finishTime(last[i], p.now).Before(finishTime(pod, p.now))) {
			last[i] = pod
		}
	}
	for i := 0; i < int(*p.j.Spec.Completions) && missing > 0; i++ {
		if busy[i] || p.done.has(i) || p.failedIdx.has(i) {
			continue
		}
		n := NewPod{Index: i}
		if before := last[i]; before != nil {
			n.Failures, n.Ignored = indexFailures(before), indexIgnored(before)
			if judgeFailure(p.j, before).action == batchv1.PodFailurePolicyActionIgnore {
				n.Ignored++
			} else {
				n.Failures++
			}
			wait := finishTime(before, p.now).Add(backoffAfter(int(n.Failures + n.Ignored))).Sub(p.now)
			if wait > 0 {
				p.again(wait)
				continue
			}
		}
		p.plan.Create = append(p.plan.Create, n)
		missing--
	}
}

func (p *planner) deletePods(list []*corev1.Pod) { p.plan.Delete = append(p.plan.Delete, list...) }

func (p *planner) again(d time.Duration) {
	if d > 0 && (p.plan.Again == 0 || d < p.plan.Again) {
		p.plan.Again = d
	}
}

// backoff is how long the next pod has to wait, given those that finished.
func (p *planner) backoff(finished []*corev1.Pod) time.Duration {
	sorted := slices.Clone(finished)
	slices.SortFunc(sorted, func(a, b *corev1.Pod) int { return finishTime(a, p.now).Compare(finishTime(b, p.now)) })
	failures, last := 0, time.Time{}
	for _, pod := range sorted {
		if pod.Status.Phase == corev1.PodSucceeded {
			failures = 0
			continue
		}
		if judgeFailure(p.j, pod).action == batchv1.PodFailurePolicyActionIgnore {
			continue
		}
		failures, last = failures+1, finishTime(pod, p.now)
	}
	if failures == 0 {
		return 0
	}
	return last.Add(backoffAfter(failures)).Sub(p.now)
}

func backoffAfter(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	if failures > 7 { // 10 s * 2^6 is more than 10 minutes
		return backoffMost
	}
	return min(backoffBase<<(failures-1), backoffMost)
}

// finishTime is when a pod ended, as well as its status tells.
func finishTime(pod *corev1.Pod, now time.Time) time.Time {
	var t time.Time
	for i := range pod.Status.ContainerStatuses {
		if s := pod.Status.ContainerStatuses[i].State.Terminated; s != nil && s.FinishedAt.After(t) {
			t = s.FinishedAt.Time
		}
	}
	if !t.IsZero() {
		return t
	}
	if c := pods.Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		t = pod.DeletionTimestamp.Time
		if pod.DeletionGracePeriodSeconds != nil {
			t = t.Add(-time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
		}
		return t
	}
	return now
}

// count sorts the pods, and does the bookkeeping of those that ended: a UID
// stands in uncountedTerminatedPods from the moment its pod is seen to have
// ended until the pod has lost its finalizer, and goes into the count then.
func (p *planner) count(owned []*corev1.Pod) {
	st := &p.plan.Status
	limit := 0
	if indexed(p.j) && p.j.Spec.Completions != nil {
		limit = int(*p.j.Spec.Completions)
		p.done = parseIndexes(st.CompletedIndexes, limit)
		if st.FailedIndexes != nil {
			p.failedIdx = parseIndexes(*st.FailedIndexes, limit)
		}
	}
	uncounted := st.UncountedTerminatedPods
	if uncounted == nil {
		uncounted = &batchv1.UncountedTerminatedPods{}
	}
	held := map[types.UID]bool{}
	for _, pod := range owned {
		if hasFinalizer(pod) {
			held[pod.UID] = true
		}
	}
	keep := func(list []types.UID, total *int32) (out []types.UID) {
		for _, uid := range list {
			if held[uid] {
				out = append(out, uid)
			} else {
				*total++
			}
		}
		return out
	}
	uncounted.Succeeded = keep(uncounted.Succeeded, &st.Succeeded)
	uncounted.Failed = keep(uncounted.Failed, &st.Failed)
	slices.SortStableFunc(owned, func(a, b *corev1.Pod) int { return cmp.Compare(a.UID, b.UID) })
	for _, pod := range owned {
		p.countPod(pod, uncounted, limit)
	}
	p.tracked = len(held)
	if indexed(p.j) {
		st.Succeeded = int32(len(p.done))
		st.CompletedIndexes = p.done.String()
		p.succeeded = st.Succeeded
		if p.j.Spec.BackoffLimitPerIndex != nil {
			text := p.failedIdx.String()
			st.FailedIndexes = &text
		}
	} else {
		p.succeeded = st.Succeeded + int32(len(uncounted.Succeeded))
	}
	p.failed = st.Failed + int32(len(uncounted.Failed))
	st.UncountedTerminatedPods = uncounted
}

func (p *planner) countPod(pod *corev1.Pod, uncounted *batchv1.UncountedTerminatedPods, limit int) {
	switch {
	case pods.Active(pod):
		p.active = append(p.active, pod)
		if pods.Ready(pod) {
			p.ready++
		}
	case pods.Terminating(pod):
		p.terminating++
		p.ending[indexOf(pod)] = true
	}
	succeeded, failed := pod.Status.Phase == corev1.PodSucceeded, p.hasFailed(pod)
	if succeeded || failed {
		p.finished = append(p.finished, pod)
	}
	if !hasFinalizer(pod) {
		if pods.Active(pod) {
			p.plan.Track = append(p.plan.Track, pod)
		}
		return
	}
	index := indexOf(pod)
	switch {
	case slices.Contains(uncounted.Succeeded, pod.UID), slices.Contains(uncounted.Failed, pod.UID):
	case succeeded && indexed(p.j):
		if index >= 0 && index < limit {
			p.done = p.done.with(index)
		}
	case succeeded:
		uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
	case failed:
		f := judgeFailure(p.j, pod)
		switch f.action {
		case batchv1.PodFailurePolicyActionIgnore:
		case batchv1.PodFailurePolicyActionFailJob:
			if p.failJob == "" {
				p.failJob = f.message
			}
			uncounted.Failed = append(uncounted.Failed, pod.UID)
		default:
			uncounted.Failed = append(uncounted.Failed, pod.UID)
			p.countIndexFailure(pod, index, limit, f)
		}
	case pod.DeletionTimestamp != nil && (p.j.DeletionTimestamp != nil || suspended(p.j)):
	default:
		return // still running
	}
	p.plan.Release = append(p.plan.Release, pod)
}

func (p *planner) countIndexFailure(pod *corev1.Pod, index, limit int, f failure) {
	per := p.j.Spec.BackoffLimitPerIndex
	if per == nil || index < 0 || index >= limit || p.done.has(index) {
		return
	}
	if f.action == batchv1.PodFailurePolicyActionFailIndex || indexFailures(pod) >= *per {
		p.failedIdx = p.failedIdx.with(index)
	}
}

// numbers puts the counts of running pods into the status.
func (p *planner) numbers(created, deleted int) {
	st := &p.plan.Status
	st.Active = int32(len(p.active) + created - deleted)
	terminating, ready := p.terminating+int32(deleted), p.ready
	for _, d := range p.plan.Delete {
		if pods.Ready(d) {
			ready--
		}
	}
	st.Terminating, st.Ready = &terminating, &ready
	if Finished(&batchv1.Job{Status: *st}) {
		st.Active = 0
	}
}

func (p *planner) event(t, reason, format string, args ...any) {
	p.plan.Events = append(p.plan.Events, Event{t, reason, fmt.Sprintf(format, args...)})
}

func (p *planner) time() metav1.Time { return metav1.NewTime(p.now) }
