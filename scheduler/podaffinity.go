package scheduler

import (
	"k8s.io/apimachinery/pkg/labels"
)

// podAffinity is inter-pod affinity and anti-affinity, required and
// preferred, of the pod itself and of the pods that are there already.
type podAffinity struct{}

func (podAffinity) Name() string { return "InterPodAffinity" }
func (podAffinity) Wakes() Event {
	return NodeAdded | NodeLabels | PodRemoved | PodPlaced | PodUpdated
}

var (
	noAffinity   = no(&Reason{Plugin: "InterPodAffinity", Text: "node(s) didn't match pod affinity rules", Unresolvable: true})
	noAnti       = no(&Reason{Plugin: "InterPodAffinity", Text: "node(s) didn't match pod anti-affinity rules"})
	othersRefuse = no(&Reason{Plugin: "InterPodAffinity", Text: "node(s) didn't satisfy existing pods anti-affinity rules"})
)

func (podAffinity) Prepare(p *Pod, s *Snapshot) *Related {
	if p.terms == nil && len(s.withTerms) == 0 {
		return nil
	}
	out := &Related{Weight: 2, Prefer: between}
	out.Check = requiredAffinity(p, s)
	if scores := preferredAffinity(p, s); len(scores) > 0 {
		out.Rate = func(n *Node) int64 {
			var sum int64
			for t, w := range scores {
				if n.Labels[t.key] == t.value {
					sum += w
				}
			}
			return sum
		}
	}
	if out.Check == nil && out.Rate == nil {
		return nil
	}
	return out
}

// between spreads raw scores over 0..MaxScore.
func between(raw, lowest, highest int64) int64 {
	if highest == lowest {
		return 0
	}
	return MaxScore * (raw - lowest) / (highest - lowest)
}

// requiredAffinity prepares the filter; nil when nothing can refuse.
func requiredAffinity(p *Pod, s *Snapshot) Check {
	refusing := counts{} // topologies in which an existing pod does not want this one
	for _, pl := range s.withTerms {
		for i := range pl.pod.terms.forbidden {
			t := &pl.pod.terms.forbidden[i]
			if where, ok := pl.node.topologyOf(t.topologyKey); ok && t.matches(p.Pod, s) {
				refusing[where]++
			}
		}
	}
	var required, forbidden []term
	if p.terms != nil {
		required, forbidden = p.terms.required, p.terms.forbidden
	}
	if len(refusing) == 0 && len(required) == 0 && len(forbidden) == 0 {
		return nil
	}
	unwanted := counts{} // topologies with pods that this one must not meet
	for i := range forbidden {
		t := &forbidden[i]
		s.eachPlaced(t, func(pl placed) {
			if where, ok := pl.node.topologyOf(t.topologyKey); ok && t.selector.Matches(labels.Set(pl.pod.Labels)) {
				unwanted[where]++
			}
		})
	}
	friends, anyFriend := friendsOf(required, s)
	// The first of a group that wants to be together may go anywhere.
	first := !anyFriend && selfMatching(p, required, s)
	return func(n *Node) []*Reason {
		for i := range required {
			where, ok := n.topologyOf(required[i].topologyKey)
			if !ok || !first && friends[where] == 0 {
				return noAffinity
			}
		}
		for i := range forbidden {
			if where, ok := n.topologyOf(forbidden[i].topologyKey); ok && unwanted[where] > 0 {
				return noAnti
			}
		}
		for where := range refusing {
			if n.Labels[where.key] == where.value {
				return othersRefuse
			}
		}
		return nil
	}
}

// friendsOf counts, per topology, the pods that match all required terms.
func friendsOf(required []term, s *Snapshot) (counts, bool) {
	friends := counts{}
	if len(required) == 0 {
		return friends, false
	}
	found := false
	s.eachPlaced(&required[0], func(pl placed) {
		for i := range required {
			if !required[i].matches(pl.pod.Pod, s) {
				return
			}
		}
		for i := range required {
			if where, ok := pl.node.topologyOf(required[i].topologyKey); ok {
				friends[where]++
				found = true
			}
		}
	})
	return friends, found
}

func selfMatching(p *Pod, required []term, s *Snapshot) bool {
	for i := range required {
		if !required[i].matches(p.Pod, s) {
			return false
		}
	}
	return true
}

// preferredAffinity sums the weights of all preferences, the pod's own and
// those that existing pods have for it, per topology.
func preferredAffinity(p *Pod, s *Snapshot) counts {
	scores := counts{}
	if p.terms != nil {
		own := func(list []term, sign int64) {
			for i := range list {
				t := &list[i]
				s.eachPlaced(t, func(pl placed) {
					if where, ok := pl.node.topologyOf(t.topologyKey); ok && t.selector.Matches(labels.Set(pl.pod.Labels)) {
						scores[where] += sign * t.weight
					}
				})
			}
		}
		own(p.terms.preferred, 1)
		own(p.terms.avoided, -1)
	}
	for _, pl := range s.withTerms {
		theirs := func(list []term, sign int64) {
			for i := range list {
				t := &list[i]
				if where, ok := pl.node.topologyOf(t.topologyKey); ok && t.matches(p.Pod, s) {
					scores[where] += sign * t.weight
				}
			}
		}
		theirs(pl.pod.terms.preferred, 1)
		theirs(pl.pod.terms.avoided, -1)
		// A required affinity of theirs counts as a mild wish to have this one near.
		theirs(pl.pod.terms.required, 1)
	}
	return scores
}
