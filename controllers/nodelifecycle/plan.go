// Package nodelifecycle watches over nodes: leases, statuses and time in;
// Unknown conditions, taints and pods marked not ready out.
package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Health is what the controller has seen of a node.
type Health struct {
	// Seen is when, by this process's clock, the node's lease or status last
	// changed (or the node was first seen).
	Seen time.Time
	// Heard: a lease or a status has been seen at all.
	Heard bool
}

// Grace says how long silence is forgiven: less for a node that has been
// heard than for one that is starting.
func (s *Settings) grace(h Health) time.Duration {
	if h.Heard {
		return s.MonitorGrace
	}
	return s.StartupGrace
}

// SilentIn is how long until a node counts as silent; 0 or less: it does.
func (s *Settings) silentIn(h Health, now time.Time) time.Duration {
	return h.Seen.Add(s.grace(h)).Sub(now)
}

func condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// silentConditions are those that the kubelet reports and that nobody knows
// while it is silent.
var silentConditions = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// unknownConditions returns a silent node's conditions, nil when they say so
// already.
func unknownConditions(n *corev1.Node, now metav1.Time) []corev1.NodeCondition {
	out, changed := slices.Clone(n.Status.Conditions), false
	for _, t := range silentConditions {
		i := slices.IndexFunc(out, func(c corev1.NodeCondition) bool { return c.Type == t })
		if i < 0 {
			changed = true
			out = append(out, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
			})
			continue
		}
		if out[i].Status != corev1.ConditionUnknown {
			changed = true
			out[i].Status, out[i].Reason, out[i].Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			out[i].LastTransitionTime = now
		}
	}
	if !changed {
		return nil
	}
	return out
}

// ruled are the taints that this controller alone decides on.
func ruled(t corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeUnschedulable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
		corev1.TaintNodeNetworkUnavailable, corev1.TaintNodePIDPressure:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// tainted says that the node has a NoExecute taint of this controller's.
func tainted(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(x corev1.Taint) bool {
		return x.Effect == corev1.TaintEffectNoExecute && ruled(x)
	})
}

// keysFor returns the keys of the taints that a node's state asks for:
// against scheduling, and (at most one) against running.
func keysFor(n *corev1.Node) (noSchedule []string, noExecute string) {
	if c := condition(n, corev1.NodeReady); c != nil {
		switch c.Status {
		case corev1.ConditionFalse:
			noExecute = corev1.TaintNodeNotReady
		case corev1.ConditionUnknown:
			noExecute = corev1.TaintNodeUnreachable
		}
	}
	if noExecute != "" {
		noSchedule = append(noSchedule, noExecute)
	}
	for _, x := range []struct {
		t   corev1.NodeConditionType
		key string
	}{
		{corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure},
		{corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{corev1.NodeNetworkUnavailable, corev1.TaintNodeNetworkUnavailable},
		{corev1.NodePIDPressure, corev1.TaintNodePIDPressure},
	} {
		if c := condition(n, x.t); c != nil && c.Status == corev1.ConditionTrue {
			noSchedule = append(noSchedule, x.key)
		}
	}
	if n.Spec.Unschedulable {
		noSchedule = append(noSchedule, corev1.TaintNodeUnschedulable)
	}
	return noSchedule, noExecute
}

// taints returns the node's taints as they are to be, nil when they are.
// evict allows a NoExecute taint to be added now; without it one that is
// there already may stay, and wanted tells that one waits to be added.
func taints(n *corev1.Node, evict bool, now metav1.Time) (out []corev1.Taint, wanted bool) {
	noSchedule, noExecute := keysFor(n)
	var want []corev1.Taint
	for _, k := range noSchedule {
		want = append(want, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
	}
	if noExecute != "" {
		t := corev1.Taint{Key: noExecute, Effect: corev1.TaintEffectNoExecute}
		// A node that was tainted before may change from one key to the other:
		// its pods are on their way out either way.
		if evict || tainted(n) {
			want = append(want, t)
		} else {
			wanted = true
		}
	}
	out, changed := make([]corev1.Taint, 0, len(n.Spec.Taints)+len(want)), false
	for _, t := range n.Spec.Taints {
		if ruled(t) {
			i := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.MatchTaint(&t) })
			if i < 0 {
				changed = true
				continue
			}
			want = slices.Delete(want, i, i+1)
		}
		out = append(out, t)
	}
	for _, w := range want {
		w.TimeAdded = &now
		out, changed = append(out, w), true
	}
	if !changed {
		return nil, wanted
	}
	return out, wanted
}

// zoneOf names the failure domain of a node.
func zoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyRegion] + "/" + n.Labels[corev1.LabelTopologyZone]
}

// zone is how a failure domain fares.
type zone struct{ ready, notReady int }

func (z zone) down() bool { return z.ready == 0 && z.notReady > 0 }

// interval is the time between two nodes of a zone being emptied; 0 is never.
// Evicting is a way to repair single nodes. When much of a zone is down the
// fault is more likely the network's or the control plane's, and moving
// everything would do harm: then it is slower, or not done at all (the
// documentation of Nodes, "Rate limits on eviction").
func (s *Settings) interval(name string, zones map[string]zone) time.Duration {
	all := true
	for _, z := range zones {
		all = all && z.down()
	}
	z := zones[name]
	switch total := z.ready + z.notReady; {
	case all:
		return 0 // not one node is heard: it is us who are cut off
	case z.down():
		return s.EvictionInterval
	case z.notReady > 2 && float64(z.notReady) >= s.UnhealthyShare*float64(total):
		if total <= s.LargeZone {
			return 0
		}
		return s.SlowInterval
	}
	return s.EvictionInterval
}
