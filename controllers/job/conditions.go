package job

import (
	"fmt"
	"math"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is why a Job ends: success or failure, reason and message.
type verdict struct {
	success         bool
	reason, message string
}

func getCondition(st *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

func conditionTrue(st *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	c := getCondition(st, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

func (p *planner) setCondition(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) (changed bool) {
	st := &p.plan.Status
	n := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: p.time(), LastTransitionTime: p.time()}
	c := getCondition(st, t)
	if c == nil {
		if status == corev1.ConditionFalse {
			return false // never been true: nothing to take back
		}
		st.Conditions = append(st.Conditions, n)
		return true
	}
	if c.Status == status && c.Reason == reason && c.Message == message {
		return false
	}
	*c = n
	return true
}

// suspendOrResume keeps the Suspended condition and the start time, from
// which the active deadline runs.
func (p *planner) suspendOrResume() {
	st := &p.plan.Status
	if suspended(p.j) {
		if p.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended") {
			p.event(corev1.EventTypeNormal, "Suspended", "Job suspended")
		}
		st.StartTime = nil
		return
	}
	if p.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed") {
		p.event(corev1.EventTypeNormal, "Resumed", "Job resumed")
		t := p.time()
		st.StartTime = &t
	}
	if st.StartTime == nil {
		t := p.time()
		st.StartTime = &t
	}
}

// verdict says whether the Job has come to an end, and how. An end once
// announced stays.
func (p *planner) verdict() *verdict {
	st := &p.plan.Status
	if c := getCondition(st, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		return &verdict{false, c.Reason, c.Message}
	}
	if c := getCondition(st, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		return &verdict{true, c.Reason, c.Message}
	}
	if p.failJob != "" {
		return &verdict{false, batchv1.JobReasonPodFailurePolicy, p.failJob}
	}
	if limit := p.j.Spec.BackoffLimit; limit != nil && (p.failed > *limit || p.restartsExceed(*limit)) {
		return &verdict{false, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"}
	}
	if v := p.deadline(); v != nil {
		return v
	}
	if p.j.Spec.BackoffLimitPerIndex != nil {
		if most := p.j.Spec.MaxFailedIndexes; most != nil && len(p.failedIdx) > int(*most) {
			return &verdict{false, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"}
		}
		if len(p.failedIdx) > 0 && int(p.succeeded)+len(p.failedIdx) >= int(*p.j.Spec.Completions) {
			return &verdict{false, batchv1.JobReasonFailedIndexes, "Job has failed indexes"}
		}
	}
	if rule, ok := successRule(p.j, p.done); ok {
		return &verdict{true, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", rule)}
	}
	complete := false
	if c := p.j.Spec.Completions; c != nil {
		complete = p.succeeded >= *c
	} else {
		complete = p.succeeded > 0 && len(p.active) == 0
	}
	if complete && !suspended(p.j) {
		return &verdict{true, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"}
	}
	return nil
}

// restartsExceed counts the restarts within pods, which take the place of
// failed pods under the restart policy OnFailure.
func (p *planner) restartsExceed(limit int32) bool {
	if p.j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure || limit == math.MaxInt32 {
		return false
	}
	var n int32
	for _, pod := range p.active {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for i := range pod.Status.InitContainerStatuses {
			n += pod.Status.InitContainerStatuses[i].RestartCount
		}
		for i := range pod.Status.ContainerStatuses {
			n += pod.Status.ContainerStatuses[i].RestartCount
		}
	}
	if limit == 0 {
		return n > 0
	}
	return n >= limit
}

func (p *planner) deadline() *verdict {
	d, start := p.j.Spec.ActiveDeadlineSeconds, p.plan.Status.StartTime
	if d == nil || start == nil || suspended(p.j) {
		return nil
	}
	left := start.Add(time.Duration(*d) * time.Second).Sub(p.now)
	if left > 0 {
		p.again(left)
		return nil
	}
	return &verdict{false, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"}
}

// finish deletes what still runs, announces the end, and declares it when
// every pod has ended and been counted.
func (p *planner) finish(v *verdict) {
	p.plan.Again = 0
	p.deletePods(p.active)
	announced, final := batchv1.JobFailureTarget, batchv1.JobFailed
	if v.success {
		announced, final = batchv1.JobSuccessCriteriaMet, batchv1.JobComplete
	}
	p.setCondition(announced, corev1.ConditionTrue, v.reason, v.message)
	st := &p.plan.Status
	u := st.UncountedTerminatedPods
	if len(p.active) > 0 || p.terminating > 0 || p.tracked > 0 || len(u.Succeeded)+len(u.Failed) > 0 {
		return
	}
	p.setCondition(final, corev1.ConditionTrue, v.reason, v.message)
	if v.success {
		t := p.time()
		st.CompletionTime = &t
		p.event(corev1.EventTypeNormal, "Completed", "Job completed")
	} else {
		p.event(corev1.EventTypeWarning, v.reason, "%s", v.message)
	}
}
