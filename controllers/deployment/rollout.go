package deployment

import (
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
)

// newSize is how large the new set may be now: with rolling updates, all
// sets together stay within replicas plus surge. A set that was shrunk counts
// with the pods that it still has, so that the bound holds for pods and not
// for wishes; how many these are is only known once its controller has seen
// that it is to be smaller.
func (p *planner) newSize() int32 {
	if p.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return p.replicas
	}
	for _, s := range p.old {
		if s.Status.ObservedGeneration < s.Generation {
			return p.new.replicas
		}
	}
	room := p.replicas + p.surge
	for _, s := range p.all {
		room -= max(s.replicas, s.Status.Replicas)
	}
	if room <= 0 {
		return p.new.replicas
	}
	return p.new.replicas + min(room, p.replicas-p.new.replicas)
}

// roll moves pods from the old sets to the new one by one step. Growing and
// shrinking are independent: what is added now is not available yet, so it
// never makes room for a removal.
func (p *planner) roll() {
	switch {
	case p.new.replicas > p.replicas:
		p.resize(p.new, p.replicas)
	case p.new.replicas < p.replicas:
		if n := p.newSize(); n != p.new.replicas {
			p.resize(p.new, n)
		}
	}
	p.shrinkOld()
	if p.complete() {
		p.cleanUp()
	}
}

// shrinkOld takes pods from the old sets: first those that are not available
// anyway (a template that never worked must not hold up its correction),
// then, oldest set first, as many available ones as maxUnavailable allows.
func (p *planner) shrinkOld() {
	old := active(p.old)
	if len(old) == 0 {
		return
	}
	atLeast := p.replicas - p.unavail
	budget := total(p.all) - atLeast - (p.new.replicas - p.new.available())
	for _, s := range old {
		n := min(budget, s.replicas-s.available())
		if n > 0 {
			p.resize(s, s.replicas-n)
			budget -= n
		}
	}
	spare := min(available(p.all)-atLeast, budget)
	for _, s := range old {
		n := min(spare, s.replicas)
		if n > 0 {
			p.resize(s, s.replicas-n)
			spare -= n
		}
	}
}

// recreate stops everything old before it starts anything new.
func (p *planner) recreate(blocked bool) {
	for _, s := range active(p.old) {
		p.resize(s, 0)
	}
	if blocked {
		return
	}
	if p.new.replicas != p.replicas {
		p.resize(p.new, p.replicas)
	}
	if p.complete() {
		p.cleanUp()
	}
}

func (p *planner) complete() bool {
	st := p.counts()
	return p.isComplete(&st)
}

// scaleProportionally gives the sets of a Deployment whose size has changed
// (or that is paused, and so does not roll) their share of the new size.
func (p *planner) scaleProportionally() {
	act := active(p.all)
	if len(act) <= 1 {
		s := p.new
		if len(act) == 1 {
			s = act[0]
		} else if s == nil && len(p.all) > 0 {
			s = p.all[len(p.all)-1]
		}
		if s != nil {
			p.resize(s, p.replicas)
		}
		return
	}
	if p.saturated() {
		for _, s := range active(p.old) {
			p.resize(s, 0)
		}
		p.resize(p.new, p.new.replicas)
		return
	}
	if p.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		for _, s := range act {
			p.resize(s, s.replicas) // notes the new size; the next reconcile recreates
		}
		return
	}
	p.distribute(act)
}

// saturated says that the new set has all the pods, available, that the
// Deployment wants.
func (p *planner) saturated() bool {
	if p.new == nil {
		return false
	}
	desired, err := strconv.ParseInt(p.new.annotations[desiredAnnotation], 10, 32)
	return err == nil && p.new.replicas == p.replicas && int32(desired) == p.replicas &&
		p.new.Status.AvailableReplicas == p.replicas
}

// distribute adds to or takes from every active set in proportion to its
// size, the largest first; what rounding leaves over is the largest set's.
func (p *planner) distribute(act []*set) {
	var allowed int32
	if p.replicas > 0 {
		allowed = p.replicas + p.surge
	}
	toAdd := allowed - total(act)
	slices.SortStableFunc(act, func(a, b *set) int {
		if a.replicas != b.replicas {
			return int(b.replicas - a.replicas)
		}
		c := older(a.ReplicaSet, b.ReplicaSet)
		if toAdd > 0 {
			c = -c // of equals, grow the newest and shrink the oldest first
		}
		if c == 0 {
			return strings.Compare(a.Name, b.Name)
		}
		return c
	})
	sizes, added := make([]int32, len(act)), int32(0)
	for i, s := range act {
		share := int32(0)
		if toAdd != 0 {
			share = p.share(s)
			left := toAdd - added
			if toAdd > 0 {
				share = min(max(share, 0), left)
			} else {
				share = max(min(share, 0), left)
			}
		}
		sizes[i] = s.replicas + share
		added += share
	}
	sizes[0] = max(sizes[0]+toAdd-added, 0)
	for i, s := range act {
		p.resize(s, max(sizes[i], 0))
	}
}

// share is by how much a set should grow or shrink to keep its part of the
// whole.
func (p *planner) share(s *set) int32 {
	if p.replicas == 0 {
		return -s.replicas
	}
	before, err := strconv.ParseInt(s.annotations[maxAnnotation], 10, 32)
	if err != nil || before <= 0 {
		before = int64(p.d.Status.Replicas)
	}
	if before <= 0 {
		return 0
	}
	size := float64(s.replicas) * float64(p.replicas+p.surge) / float64(before)
	return int32(math.Round(size)) - s.replicas
}
