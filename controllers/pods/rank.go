package pods

import (
	"math/bits"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// DeletionOrder sorts pods so that the ones to delete first when a set
// shrinks come first, as the documentation of ReplicaSet's scale-down lays
// down: unassigned before assigned, pending before unknown before running,
// not ready before ready, lower controller.kubernetes.io/pod-deletion-cost
// first, then those that share their node with more siblings, the shorter
// ready, the more restarted, the newer. Ages are compared on a logarithmic
// scale with the UID deciding within one step, so that not all the newest
// (often all in one zone) go first (KEP-2185).
//
// siblings is the number of active siblings on a pod's node; now is the time
// that ages are taken from.
func DeletionOrder(siblings func(*corev1.Pod) int, now time.Time) func(a, b *corev1.Pod) int {
	return func(a, b *corev1.Pod) int {
		for _, c := range [...]int{
			boolFirst(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			phaseOrder(a.Status.Phase) - phaseOrder(b.Status.Phase),
			boolFirst(!Ready(a), !Ready(b)),
			deletionCost(a) - deletionCost(b),
			siblings(b) - siblings(a),
		} {
			if c != 0 {
				return c
			}
		}
		if c := byAge(ReadySince(a).Time, ReadySince(b).Time, a, b, now); c != 0 {
			return c
		}
		if c := restarts(b) - restarts(a); c != 0 {
			return c
		}
		return byAge(a.CreationTimestamp.Time, b.CreationTimestamp.Time, a, b, now)
	}
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseOrder(p corev1.PodPhase) int {
	switch p {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	case corev1.PodRunning:
		return 2
	}
	return 0
}

func deletionCost(p *corev1.Pod) int {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int(n)
}

func restarts(p *corev1.Pod) int {
	var n int32
	for i := range p.Status.ContainerStatuses {
		n = max(n, p.Status.ContainerStatuses[i].RestartCount)
	}
	for i := range p.Status.InitContainerStatuses {
		if sidecar(p, p.Status.InitContainerStatuses[i].Name) {
			n = max(n, p.Status.InitContainerStatuses[i].RestartCount)
		}
	}
	return int(n)
}

func sidecar(p *corev1.Pod, container string) bool {
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.Name == container {
			return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}
	}
	return false
}

// byAge puts the younger first; a zero time counts as youngest.
func byAge(a, b time.Time, pa, pb *corev1.Pod, now time.Time) int {
	if a.Equal(b) {
		return 0
	}
	if a.IsZero() || b.IsZero() {
		return boolFirst(a.IsZero(), b.IsZero())
	}
	if c := ageStep(now.Sub(a)) - ageStep(now.Sub(b)); c != 0 {
		return c
	}
	switch {
	case pa.UID < pb.UID:
		return -1
	case pa.UID > pb.UID:
		return 1
	}
	return 0
}

func ageStep(d time.Duration) int { return bits.Len64(uint64(max(d, 0))) }
