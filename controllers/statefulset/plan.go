// Package statefulset keeps the numbered pods of a StatefulSet, each with its
// name and its claims: sets, pods, claims and revisions in; pod creations and
// deletions in order, claims and the set's status out.
package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/controllers/pods"
)

// State is what a plan is made from.
type State struct {
	Set  *appsv1.StatefulSet
	Pods []*corev1.Pod // all that the set controls
	// Current and Update are the names of the revisions that the set comes
	// from and goes to.
	Current, Update string
	Now             time.Time
}

// Pod is a pod to make: an ordinal and the revision of its template.
type Pod struct {
	Ordinal  int
	Revision string
}

// Plan is what one reconcile does, in this order.
type Plan struct {
	// Keep are the pods whose identity and claims are to be looked after.
	Keep   []*corev1.Pod
	Create []Pod
	Delete []*corev1.Pod
	// Condemned are the pods of a scale-down, Delete's and those still to
	// come: their claims may have to go with them.
	Condemned []*corev1.Pod
	// Again is when a pod becomes available by time alone; 0 is never.
	Again  time.Duration
	Status appsv1.StatefulSetStatus
}

type planner struct {
	State
	plan      Plan
	ordered   bool
	members   []*corev1.Pod // by ordinal from the start, nil where none is
	condemned []*corev1.Pod // highest ordinal first
}

// Make plans for a set.
func Make(s State) Plan {
	pl := &planner{State: s, ordered: s.Set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement}
	pl.members = make([]*corev1.Pod, replicas(s.Set))
	first := start(s.Set)
	for _, p := range s.Pods {
		n := ordinalOf(s.Set, p.Name)
		switch {
		case n < 0:
		case n >= first && n < first+len(pl.members):
			pl.members[n-first] = p
		default:
			pl.condemned = append(pl.condemned, p)
		}
	}
	slices.SortFunc(pl.condemned, func(a, b *corev1.Pod) int { return ordinalOf(s.Set, b.Name) - ordinalOf(s.Set, a.Name) })
	pl.status()
	if s.Set.DeletionTimestamp != nil {
		return pl.plan
	}
	pl.plan.Condemned = pl.condemned
	if pl.fill() && pl.shrink() && s.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		pl.roll()
	}
	return pl.plan
}

// serving says that a pod is running, ready for minReadySeconds and not being
// deleted.
func (pl *planner) serving(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
		return false
	}
	ok, wait := pods.Available(p, pl.Set.Spec.MinReadySeconds, pl.Now)
	if wait > 0 && (pl.plan.Again == 0 || wait < pl.plan.Again) {
		pl.plan.Again = wait
	}
	return ok
}

// fill makes the pods that are missing; false is: nothing else yet. An
// ordered set makes one only when all before it serve.
func (pl *planner) fill() bool {
	for i, p := range pl.members {
		ordinal := start(pl.Set) + i
		switch {
		case p == nil:
			pl.plan.Create = append(pl.plan.Create, Pod{Ordinal: ordinal, Revision: pl.revisionFor(ordinal)})
			if pl.ordered {
				return false
			}
			continue
		case pods.Finished(p):
			// The name is free only when the pod has gone.
			if p.DeletionTimestamp == nil {
				pl.plan.Delete = append(pl.plan.Delete, p)
			}
			if pl.ordered {
				return false
			}
			continue
		case p.DeletionTimestamp == nil:
			pl.plan.Keep = append(pl.plan.Keep, p)
		}
		if pl.ordered && !pl.serving(p) {
			return false
		}
	}
	return true
}

// revisionFor is the template of a new pod: below the partition that which
// the set comes from.
func (pl *planner) revisionFor(ordinal int) string {
	if pl.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && ordinal < start(pl.Set)+pl.partition() {
		return pl.Current
	}
	return pl.Update
}

func (pl *planner) partition() int {
	if ru := pl.Set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		return int(*ru.Partition)
	}
	return 0
}

// shrink deletes what the set has too many of, from the highest ordinal; an
// ordered set one at a time, and only while all others serve: the one that
// does not is the first to go itself, or everything waits.
func (pl *planner) shrink() bool {
	firstBroken := pl.firstBroken()
	for _, p := range pl.condemned {
		switch {
		case p.DeletionTimestamp != nil:
			if pl.ordered {
				return false
			}
			continue
		case pl.ordered && !pl.serving(p) && p != firstBroken:
			return false
		}
		pl.plan.Delete = append(pl.plan.Delete, p)
		if pl.ordered {
			return false
		}
	}
	return true
}

// firstBroken is the pod of the lowest ordinal that does not serve.
func (pl *planner) firstBroken() *corev1.Pod {
	var first *corev1.Pod
	for _, p := range pl.Pods {
		n := ordinalOf(pl.Set, p.Name)
		if n >= 0 && !pl.serving(p) && (first == nil || n < ordinalOf(pl.Set, first.Name)) {
			first = p
		}
	}
	return first
}

// roll deletes pods of another revision from the highest ordinal down to the
// partition. As many may be missing as maxUnavailable allows; one that does
// not serve anyway costs nothing more.
func (pl *planner) roll() {
	budget := pl.maxUnavailable()
	for _, p := range pl.members {
		if p == nil || !pl.serving(p) {
			budget--
		}
	}
	for i := len(pl.members) - 1; i >= pl.partition(); i-- {
		p := pl.members[i]
		if p == nil || p.DeletionTimestamp != nil || pods.Finished(p) || revisionOf(p) == pl.Update {
			continue
		}
		if pl.serving(p) {
			if budget <= 0 {
				continue
			}
			budget--
		}
		pl.plan.Delete = append(pl.plan.Delete, p)
	}
}

func (pl *planner) maxUnavailable() int {
	ru := pl.Set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, len(pl.members), true)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// status counts what is observed, and ends a rollout that has arrived.
func (pl *planner) status() {
	st := appsv1.StatefulSetStatus{
		ObservedGeneration: pl.Set.Generation, CurrentRevision: pl.Current, UpdateRevision: pl.Update,
		CollisionCount: pl.Set.Status.CollisionCount, Conditions: pl.Set.Status.Conditions,
	}
	for _, p := range pl.Pods {
		st.Replicas++
		if p.Status.Phase == corev1.PodRunning && pods.Ready(p) {
			st.ReadyReplicas++
			if ok, _ := pods.Available(p, pl.Set.Spec.MinReadySeconds, pl.Now); ok {
				st.AvailableReplicas++
			}
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(p) == pl.Current {
			st.CurrentReplicas++
		}
		if revisionOf(p) == pl.Update {
			st.UpdatedReplicas++
		}
	}
	want := int32(len(pl.members))
	if pl.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType &&
		st.UpdatedReplicas == want && st.ReadyReplicas == want && st.Replicas == want {
		st.CurrentReplicas, st.CurrentRevision = st.UpdatedReplicas, pl.Update
	}
	pl.plan.Status = st
}
