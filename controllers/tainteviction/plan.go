// Package tainteviction deletes pods from nodes whose NoExecute taints they
// do not, or no longer, tolerate: a pod and its node's taints in, the time of
// its eviction out.
package tainteviction

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// EvictAt is when the pod has to go; ok is false when it may stay. added is
// when a taint without a time of its own counts as added.
func EvictAt(p *corev1.Pod, taints []corev1.Taint, added time.Time) (at time.Time, ok bool) {
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		seconds, tolerated := tolerates(p.Spec.Tolerations, t)
		if tolerated && seconds == nil {
			continue
		}
		from := added
		if t.TimeAdded != nil {
			from = t.TimeAdded.Time
		}
		if p.CreationTimestamp.After(from) {
			from = p.CreationTimestamp.Time // bound in full knowledge of the taint
		}
		if tolerated {
			from = from.Add(time.Duration(max(*seconds, 0)) * time.Second)
		}
		if !ok || from.Before(at) {
			at, ok = from, true
		}
	}
	return at, ok
}

// tolerates returns for how long the taint is tolerated: the shortest of the
// matching tolerations' times, nil for ever.
func tolerates(tolerations []corev1.Toleration, t *corev1.Taint) (seconds *int64, ok bool) {
	for i := range tolerations {
		tol := &tolerations[i]
		if !tol.ToleratesTaint(klog.Background(), t, false) {
			continue
		}
		ok = true
		if tol.TolerationSeconds != nil && (seconds == nil || *tol.TolerationSeconds < *seconds) {
			seconds = tol.TolerationSeconds
		}
	}
	return seconds, ok
}
