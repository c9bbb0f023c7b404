package sim

import (
	"hash/fnv"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pace is how long things take on hollow nodes. Every pod draws its own times
// from half to one and a half of these, always the same ones.
type Pace struct {
	Start time.Duration // from bound to Running and Ready
	Stop  time.Duration // from its deletion to gone, within the pod's grace
	Run   time.Duration // what pods that are not restarted always run for
	// Fail is the share of such pods that fail, from 0 to 1.
	Fail float64
}

// Step is what a hollow node does next with a pod: after a time (0: now), to
// write a status or to confirm that the pod is gone. The zero value is nothing.
type Step struct {
	After  time.Duration
	Status *corev1.PodStatus
	Gone   bool
}

// Next plays a pod one step further. It only reads p; ip is the pod's address.
func Next(p *corev1.Pod, pace Pace, ip string, now time.Time) Step {
	st := &p.Status
	switch {
	case p.DeletionTimestamp != nil:
		return stop(p, pace, now)
	case st.Phase == corev1.PodSucceeded || st.Phase == corev1.PodFailed:
		return Step{}
	case st.StartTime == nil:
		return Step{Status: created(p, now)}
	case st.Phase == corev1.PodPending:
		if left := st.StartTime.Add(draw(p, "start", pace.Start)).Sub(now); left > 0 {
			return Step{After: left}
		}
		return Step{Status: running(p, ip, now)}
	case p.Spec.RestartPolicy == corev1.RestartPolicyAlways || len(st.ContainerStatuses) == 0 || st.ContainerStatuses[0].State.Running == nil:
		return Step{}
	}
	began := st.ContainerStatuses[0].State.Running.StartedAt
	if left := began.Add(draw(p, "run", pace.Run)).Sub(now); left > 0 {
		return Step{After: left}
	}
	return Step{Status: ended(p, began, pace.Fail, now)}
}

// stop lets a pod go when its containers have ended, at the latest when its
// grace has.
func stop(p *corev1.Pod, pace Pace, now time.Time) Step {
	grace := time.Duration(0)
	if s := p.DeletionGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	asked := p.DeletionTimestamp.Add(-grace)
	if left := asked.Add(min(draw(p, "stop", pace.Stop), grace)).Sub(now); left > 0 {
		return Step{After: left}
	}
	return Step{Gone: true}
}

// chance is a number from 0 to 1 that belongs to the pod and a purpose.
func chance(p *corev1.Pod, purpose string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(purpose))
	_, _ = h.Write([]byte(p.UID))
	// Similar texts have similar sums; this spreads them.
	n := h.Sum64() * 0x9e3779b97f4a7c15
	return float64(n>>11) / (1 << 53)
}

func draw(p *corev1.Pod, purpose string, around time.Duration) time.Duration {
	return time.Duration(math.Round(float64(around) * (0.5 + chance(p, purpose))))
}

// created is the status of a pod that the node has seen.
func created(p *corev1.Pod, now time.Time) *corev1.PodStatus {
	st := status(p, corev1.PodPending, now)
	began := metav1.NewTime(now)
	st.StartTime = &began
	for i := range p.Spec.Containers {
		c := container(&p.Spec.Containers[i])
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
		st.ContainerStatuses = append(st.ContainerStatuses, c)
	}
	for i := range p.Spec.InitContainers {
		c := container(&p.Spec.InitContainers[i])
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
		st.InitContainerStatuses = append(st.InitContainerStatuses, c)
	}
	return st
}

// running is the status of a pod whose containers all run.
func running(p *corev1.Pod, ip string, now time.Time) *corev1.PodStatus {
	st := status(p, corev1.PodRunning, now)
	st.StartTime, st.PodIP, st.PodIPs = p.Status.StartTime, ip, []corev1.PodIP{{IP: ip}}
	since := metav1.NewTime(now)
	up := func(c corev1.ContainerStatus) corev1.ContainerStatus {
		yes := true
		c.Ready, c.Started = true, &yes
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: since}
		return c
	}
	for i := range p.Spec.Containers {
		st.ContainerStatuses = append(st.ContainerStatuses, up(container(&p.Spec.Containers[i])))
	}
	for i := range p.Spec.InitContainers {
		c := container(&p.Spec.InitContainers[i])
		if always := p.Spec.InitContainers[i].RestartPolicy; always != nil && *always == corev1.ContainerRestartPolicyAlways {
			c = up(c)
		} else {
			c.Ready = true
			c.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: *st.StartTime, FinishedAt: since}
		}
		st.InitContainerStatuses = append(st.InitContainerStatuses, c)
	}
	return st
}

// ended is the status of a pod whose containers have ended for good.
func ended(p *corev1.Pod, began metav1.Time, fail float64, now time.Time) *corev1.PodStatus {
	phase, reason, code := corev1.PodSucceeded, "Completed", int32(0)
	if chance(p, "fail") < fail {
		phase, reason, code = corev1.PodFailed, "Error", 1
	}
	st := status(p, phase, now)
	st.StartTime, st.PodIP, st.PodIPs, st.InitContainerStatuses = p.Status.StartTime, p.Status.PodIP, p.Status.PodIPs, p.Status.InitContainerStatuses
	for i := range p.Spec.Containers {
		c := container(&p.Spec.Containers[i])
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: began, FinishedAt: metav1.NewTime(now)}
		st.ContainerStatuses = append(st.ContainerStatuses, c)
	}
	return st
}

func container(c *corev1.Container) corev1.ContainerStatus {
	no := false
	return corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image, Started: &no}
}

// status has the conditions of a phase, as a kubelet reports them.
func status(p *corev1.Pod, phase corev1.PodPhase, now time.Time) *corev1.PodStatus {
	st := &corev1.PodStatus{Phase: phase, HostIP: p.Status.HostIP, HostIPs: p.Status.HostIPs, QOSClass: p.Status.QOSClass, ObservedGeneration: p.Generation}
	set := func(t corev1.PodConditionType, ok bool, reason string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, LastTransitionTime: metav1.NewTime(now), ObservedGeneration: p.Generation}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		for i := range p.Status.Conditions {
			if old := &p.Status.Conditions[i]; old.Type == t && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		st.Conditions = append(st.Conditions, c)
	}
	up, reason := phase == corev1.PodRunning, ""
	switch phase {
	case corev1.PodPending:
		reason = "ContainersNotReady"
	case corev1.PodSucceeded:
		reason = "PodCompleted"
	case corev1.PodFailed:
		reason = "PodFailed"
	}
	set(corev1.PodReadyToStartContainers, up, "")
	set(corev1.PodInitialized, phase != corev1.PodPending || len(p.Spec.InitContainers) == 0, "")
	set(corev1.PodReady, up, reason)
	set(corev1.ContainersReady, up, reason)
	set(corev1.PodScheduled, true, "")
	return st
}
