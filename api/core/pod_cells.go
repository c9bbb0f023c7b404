package core

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/coxswain/cox/api/printing"
)

func podCells(p *corev1.Pod) []any {
	s := summarize(p)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts != 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, duration.HumanDuration(time.Since(s.lastRestart)))
	}
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	gates := printing.None
	if n := len(p.Spec.ReadinessGates); n > 0 {
		ready := 0
		for _, g := range p.Spec.ReadinessGates {
			if podCondition(p, g.ConditionType) {
				ready++
			}
		}
		gates = fmt.Sprintf("%d/%d", ready, n)
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.reason, restarts, printing.Age(p.CreationTimestamp),
		printing.Or(ip, printing.None), printing.Or(p.Spec.NodeName, printing.None),
		printing.Or(p.Status.NominatedNodeName, printing.None), gates,
	}
}

// podCondition says that a condition is true.
func podCondition(p *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podSummary is a pod in one line: how many containers are ready, the one
// word for how it fares, and the restarts of what runs now.
type podSummary struct {
	ready, total, restarts int
	reason                 string
	lastRestart            time.Time
}

func (s *podSummary) restarted(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.lastRestart.Before(t.FinishedAt.Time) {
		s.lastRestart = t.FinishedAt.Time
	}
}

func summarize(p *corev1.Pod) podSummary {
	s := podSummary{total: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecar := map[string]bool{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecar[c.Name] = true
			s.total++
		}
	}
	// While a pod initializes, restarts are those of its init containers;
	// after that only those of the containers that go on running count.
	running := podSummary{}
	initializing := s.initContainers(p, sidecar, &running)
	if !initializing || podCondition(p, corev1.PodInitialized) {
		s.restarts, s.lastRestart = running.restarts, running.lastRestart
		s.containers(p)
	}
	s.terminating(p)
	return s
}

// initContainers goes through the init containers up to the first that is not
// done, and reports whether there is one.
func (s *podSummary) initContainers(p *corev1.Pod, sidecar map[string]bool, running *podSummary) bool {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.restarted(c)
		if sidecar[c.Name] {
			running.restarted(c)
		}
		switch st := c.State; {
		case st.Terminated != nil && st.Terminated.ExitCode == 0:
			continue
		case sidecar[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case st.Terminated != nil:
			s.reason = "Init:" + ended(st.Terminated)
		case st.Waiting != nil && st.Waiting.Reason != "" && st.Waiting.Reason != "PodInitializing":
			s.reason = "Init:" + st.Waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

// ended words the end of a container.
func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// containers lets the first container that has something to tell name the
// pod's reason.
func (s *podSummary) containers(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.restarted(c)
		switch st := c.State; {
		case st.Waiting != nil && st.Waiting.Reason != "":
			s.reason = st.Waiting.Reason
		case st.Terminated != nil:
			s.reason = ended(st.Terminated)
		case c.Ready && st.Running != nil:
			running = true
			s.ready++
		}
	}
	// One container has completed but another still runs.
	if s.reason == "Completed" && running {
		s.reason = "NotReady"
		if podCondition(p, corev1.PodReady) {
			s.reason = "Running"
		}
	}
}

func (s *podSummary) terminating(p *corev1.Pod) {
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
		s.reason = "Terminating"
	}
}
