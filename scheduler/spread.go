package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/utils/ptr"
)

// podSpread is topology spread: constraints of the pod, and for pods without
// any the default ones, which only score.
type podSpread struct{}

func (podSpread) Name() string { return "PodTopologySpread" }
func (podSpread) Wakes() Event {
	return NodeAdded | NodeLabels | NodeTaints | PodRemoved | PodPlaced | PodUpdated
}

var (
	tooSkewed = no(&Reason{Plugin: "PodTopologySpread", Text: "node(s) didn't match pod topology spread constraints"})
	noLabel   = no(&Reason{Plugin: "PodTopologySpread", Text: "node(s) didn't match pod topology spread constraints (missing required label)", Unresolvable: true})
)

// constraint is one spread constraint of pods of one shape, with what it
// counts. Nodes are known by their index in the snapshot.
type constraint struct {
	key        string
	maxSkew    int64
	minDomains int64
	selector   labels.Selector
	affinity   bool // only nodes that the pod's node affinity allows count
	taints     bool // only nodes whose taints the pod tolerates count

	domain  []int32   // per node, which of the key's values it has; -1 for none
	counts  []bool    // per node, whether its pods count
	domains []matches // by value
	live    int64     // how many domains have a node that counts
	weight  float64   // of a pod there is already, falls with every further domain
}

// matches is what one domain holds.
type matches struct {
	pods int64
	live bool
}

func (podSpread) Prepare(p *Pod, s *Snapshot) *Related {
	sp := s.spreads.of(p, s)
	if sp == nil {
		return nil
	}
	out := &Related{Weight: 2}
	if len(sp.hard) > 0 {
		room := make([]int64, len(sp.hard))
		for i, c := range sp.hard {
			room[i] = c.fewest() + c.maxSkew
			if c.selector.Matches(labels.Set(p.Labels)) {
				room[i]-- // the pod itself counts
			}
		}
		out.Check = func(n *Node) []*Reason { return skewed(n, sp.hard, room) }
	}
	if len(sp.soft) > 0 {
		out.Rate = func(n *Node) int64 { return crowding(n, sp.soft) }
		out.Prefer = func(raw, lowest, highest int64) int64 {
			if highest == 0 {
				return MaxScore
			}
			return MaxScore * (highest + lowest - raw) / highest
		}
	}
	return out
}

func newConstraint(t *corev1.TopologySpreadConstraint) *constraint {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return nil
	}
	return &constraint{
		key: t.TopologyKey, maxSkew: int64(t.MaxSkew), minDomains: int64(ptr.Deref(t.MinDomains, 1)), selector: selector,
		affinity: ptr.Deref(t.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor,
		taints:   ptr.Deref(t.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor,
	}
}

// defaultConstraints spread the pods of one controller over hosts and zones,
// as far as nothing else speaks against it.
func defaultConstraints(set labels.Set) []*constraint {
	selector := labels.SelectorFromSet(set)
	return []*constraint{
		{key: corev1.LabelHostname, maxSkew: 3, minDomains: 1, selector: selector, affinity: true},
		{key: corev1.LabelTopologyZone, maxSkew: 5, minDomains: 1, selector: selector, affinity: true},
	}
}

// defaultSet is what pods must carry to count for the default constraints of
// p; nil when p has none.
func defaultSet(p *Pod) labels.Set {
	if controllerOf(p.Pod) == "" || len(p.Labels) == 0 {
		return nil
	}
	set := labels.Set{}
	for k, v := range p.Labels {
		if k != "controller-revision-hash" && k != "statefulset.kubernetes.io/pod-name" && k != "apps.kubernetes.io/pod-index" {
			set[k] = v
		}
	}
	return set
}

// survey finds the domains and which nodes count; all are the constraints of
// which a node must have every key, nil for no such condition.
func (c *constraint) survey(p *Pod, s *Snapshot, fits nodeaffinity.RequiredNodeAffinity, all []*constraint) {
	c.domain, c.counts, c.domains, c.live = make([]int32, len(s.nodes)), make([]bool, len(s.nodes)), nil, 0
	values := map[string]int32{}
	for i, n := range s.nodes {
		value, ok := n.Labels[c.key]
		if !ok {
			c.domain[i] = -1
			continue
		}
		d, ok := values[value]
		if !ok {
			d = int32(len(c.domains))
			values[value] = d
			c.domains = append(c.domains, matches{})
		}
		c.domain[i] = d
		if c.counts[i] = c.eligible(p, n, fits, all); c.counts[i] && !c.domains[d].live {
			c.domains[d].live = true
			c.live++
		}
	}
	c.weight = math.Log(float64(c.live + 2))
}

func (c *constraint) eligible(p *Pod, n *Node, fits nodeaffinity.RequiredNodeAffinity, all []*constraint) bool {
	for _, o := range all {
		if _, ok := n.Labels[o.key]; !ok {
			return false
		}
	}
	if c.affinity {
		if ok, err := fits.Match(n.Node); err != nil || !ok {
			return false
		}
	}
	if c.taints {
		for i := range n.Spec.Taints {
			t := &n.Spec.Taints[i]
			if t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(p.Spec.Tolerations, t) {
				return false
			}
		}
	}
	return true
}

// count adds (1) or takes off (-1) a pod on a node if the constraint is about it.
func (c *constraint) count(p *Pod, n *Node, sign int64) {
	if c.counts[n.index] && p.DeletionTimestamp == nil && c.selector.Matches(labels.Set(p.Labels)) {
		c.domains[c.domain[n.index]].pods += sign
	}
}

// fewest is what the emptiest domain holds.
func (c *constraint) fewest() int64 {
	if c.live == 0 || c.live < c.minDomains {
		return 0
	}
	var fewest int64 = math.MaxInt64
	for i := range c.domains {
		if c.domains[i].live {
			fewest = min(fewest, c.domains[i].pods)
		}
	}
	return fewest
}

// skewed is the filter of the hard constraints: each domain has room for so
// many pods.
func skewed(n *Node, hard []*constraint, room []int64) []*Reason {
	for i, c := range hard {
		d := c.domain[n.index]
		if d < 0 {
			return noLabel
		}
		if c.domains[d].pods > room[i] {
			return tooSkewed
		}
	}
	return nil
}

// crowding is how many pods a node's domains hold already, each domain's
// count weighted up with the number of domains of its kind.
func crowding(n *Node, soft []*constraint) int64 {
	var sum float64
	for _, c := range soft {
		if d := c.domain[n.index]; d >= 0 {
			sum += float64(c.domains[d].pods)*c.weight + float64(c.maxSkew-1)
		}
	}
	return int64(math.Round(sum))
}
