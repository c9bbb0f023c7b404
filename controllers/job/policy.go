package job

import (
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// failure is what a Job's pod failure policy says about a failed pod.
type failure struct {
	action  batchv1.PodFailurePolicyAction // Count where no rule matches
	message string
}

// judgeFailure finds the first rule of the policy that matches.
func judgeFailure(j *batchv1.Job, p *corev1.Pod) failure {
	if j.Spec.PodFailurePolicy == nil {
		return failure{action: batchv1.PodFailurePolicyActionCount}
	}
	for i, rule := range j.Spec.PodFailurePolicy.Rules {
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && j.Spec.BackoffLimitPerIndex == nil {
			continue
		}
		if rule.OnExitCodes != nil {
			if c := exitCodeMatch(p, rule.OnExitCodes); c != nil {
				return failure{rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)}
			}
			continue
		}
		for _, want := range rule.OnPodConditions {
			for _, c := range p.Status.Conditions {
				if c.Type == want.Type && c.Status == want.Status {
					return failure{rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d",
						p.Namespace, p.Name, c.Type, rule.Action, i)}
				}
			}
		}
	}
	return failure{action: batchv1.PodFailurePolicyActionCount}
}

func exitCodeMatch(p *corev1.Pod, r *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [...][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			c := &list[i]
			t := c.State.Terminated
			if t == nil || t.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != c.Name {
				continue
			}
			in := slices.Contains(r.Values, t.ExitCode)
			if in == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return c
			}
		}
	}
	return nil
}

// indexFailures is how often an index has failed as far as a pod of it knows:
// the count goes on from pod to pod in an annotation.
func indexFailures(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[batchv1.JobIndexFailureCountAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func indexIgnored(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// successRule returns the first rule of the success policy that the
// completed indexes meet.
func successRule(j *batchv1.Job, done indexSet) (rule int, ok bool) {
	if j.Spec.SuccessPolicy == nil || !indexed(j) {
		return 0, false
	}
	for i, r := range j.Spec.SuccessPolicy.Rules {
		n, need := len(done), 0
		if r.SucceededIndexes != nil {
			asked := parseIndexes(*r.SucceededIndexes, int(*j.Spec.Completions))
			n, need = 0, len(asked)
			for _, x := range asked {
				if done.has(x) {
					n++
				}
			}
		}
		if r.SucceededCount != nil {
			need = int(*r.SucceededCount)
		}
		if need > 0 && n >= need {
			return i, true
		}
	}
	return 0, false
}
