package kubelet

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// settleUnknown has the containers of a pod that is over for good show an end,
// where they would wait for ever else: those of which the runtime knows nothing,
// because they were not started before the pod was ended, or their records are
// lost. App containers of a pod whose init containers never got done wait on,
// since they were never to be started, as do the init containers after the one
// that was next (as observed of upstream's kubelet 1.36).
func settleUnknown(st *corev1.PodStatus) {
	if st.Phase != corev1.PodFailed && st.Phase != corev1.PodSucceeded {
		return
	}
	if hadInitialized(st) {
		for i := range st.ContainerStatuses {
			endUnknown(&st.ContainerStatuses[i])
		}
	}
	begun := len(st.InitContainerStatuses)
	for begun > 1 && !hadBegun(&st.InitContainerStatuses[begun-1]) {
		begun--
	}
	for i := range begun {
		endUnknown(&st.InitContainerStatuses[i])
	}
}

// hadInitialized says that app containers were started, or were to be.
func hadInitialized(st *corev1.PodStatus) bool {
	n := len(st.InitContainerStatuses)
	if n == 0 {
		return true
	}
	if slices.ContainsFunc(st.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return hadBegun(&c) || c.State.Waiting != nil && c.State.Waiting.Reason != podInitializing
	}) {
		return true
	}
	last := &st.InitContainerStatuses[n-1]
	for _, t := range []*corev1.ContainerStateTerminated{last.State.Terminated, last.LastTerminationState.Terminated} {
		if t != nil && t.ExitCode == 0 {
			return true
		}
	}
	return false
}

// hadBegun says that a container was started at some time.
func hadBegun(c *corev1.ContainerStatus) bool {
	return c.State.Waiting == nil || c.LastTerminationState.Terminated != nil
}

// endUnknown ends a container that waits. One that is known to run will show its
// own end.
func endUnknown(c *corev1.ContainerStatus) {
	if c.State.Waiting == nil {
		return
	}
	c.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated",
	}}
}
