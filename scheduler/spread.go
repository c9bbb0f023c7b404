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

// constraint is one spread constraint with what it counts.
type constraint struct {
	key        string
	maxSkew    int64
	minDomains int64
	selector   labels.Selector
	self       int64 // 1 if the pod itself counts
	affinity   bool  // only nodes that the pod's node affinity allows count
	taints     bool  // only nodes whose taints the pod tolerates count
	pods       map[string]int64
	fewest     int64
}

func (podSpread) Prepare(p *Pod, s *Snapshot) *Related {
	var hard, soft []*constraint
	for i := range p.Spec.TopologySpreadConstraints {
		c := newConstraint(p, &p.Spec.TopologySpreadConstraints[i])
		if c == nil {
			continue
		}
		if p.Spec.TopologySpreadConstraints[i].WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, c)
		} else {
			soft = append(soft, c)
		}
	}
	if len(p.Spec.TopologySpreadConstraints) == 0 {
		soft = defaultConstraints(p)
	}
	if len(hard)+len(soft) == 0 {
		return nil
	}
	fits := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	for _, c := range hard {
		c.count(p, s, fits, hard)
	}
	for _, c := range soft {
		c.count(p, s, fits, soft)
	}
	out := &Related{Weight: 2}
	if len(hard) > 0 {
		out.Check = func(n *Node) []*Reason { return skewed(n, hard) }
	}
	if len(soft) > 0 {
		out.Rate = func(n *Node) int64 { return crowding(n, soft) }
		out.Prefer = func(raw, lowest, highest int64) int64 {
			if highest == 0 {
				return MaxScore
			}
			return MaxScore * (highest + lowest - raw) / highest
		}
	}
	return out
}

func newConstraint(p *Pod, t *corev1.TopologySpreadConstraint) *constraint {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return nil
	}
	c := &constraint{
		key: t.TopologyKey, maxSkew: int64(t.MaxSkew), minDomains: int64(ptr.Deref(t.MinDomains, 1)), selector: selector,
		affinity: ptr.Deref(t.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor,
		taints:   ptr.Deref(t.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor,
	}
	if selector.Matches(labels.Set(p.Labels)) {
		c.self = 1
	}
	return c
}

// defaultConstraints spread the pods of one controller over hosts and zones,
// as far as nothing else speaks against it.
func defaultConstraints(p *Pod) []*constraint {
	if controllerOf(p.Pod) == "" || len(p.Labels) == 0 {
		return nil
	}
	set := labels.Set{}
	for k, v := range p.Labels {
		if k != "controller-revision-hash" && k != "statefulset.kubernetes.io/pod-name" && k != "apps.kubernetes.io/pod-index" {
			set[k] = v
		}
	}
	selector := labels.SelectorFromSet(set)
	return []*constraint{
		{key: corev1.LabelHostname, maxSkew: 3, minDomains: 1, selector: selector, self: 1, affinity: true},
		{key: corev1.LabelTopologyZone, maxSkew: 5, minDomains: 1, selector: selector, self: 1, affinity: true},
	}
}

// count finds the domains and how many matching pods each holds.
func (c *constraint) count(p *Pod, s *Snapshot, fits nodeaffinity.RequiredNodeAffinity, all []*constraint) {
	c.pods = map[string]int64{}
	eligible := func(n *Node) bool {
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
	counted := map[*Node]bool{}
	for _, n := range s.nodes {
		if eligible(n) {
			counted[n] = true
			c.pods[n.Labels[c.key]] += 0
		}
	}
	for _, pl := range s.byNamespace[p.Namespace] {
		if counted[pl.node] && pl.pod.DeletionTimestamp == nil && c.selector.Matches(labels.Set(pl.pod.Labels)) {
			c.pods[pl.node.Labels[c.key]]++
		}
	}
	c.fewest = math.MaxInt64
	for _, n := range c.pods {
		c.fewest = min(c.fewest, n)
	}
	if len(c.pods) == 0 || int64(len(c.pods)) < c.minDomains {
		c.fewest = 0
	}
}

// skewed is the filter of the hard constraints.
func skewed(n *Node, hard []*constraint) []*Reason {
	for _, c := range hard {
		value, ok := n.Labels[c.key]
		if !ok {
			return noLabel
		}
		if c.pods[value]+c.self-c.fewest > c.maxSkew {
			return tooSkewed
		}
	}
	return nil
}

// crowding is how many pods a node's domains hold already, each domain's
// count weighted down the more domains of its kind there are.
func crowding(n *Node, soft []*constraint) int64 {
	var sum float64
	for _, c := range soft {
		value, ok := n.Labels[c.key]
		if !ok {
			continue
		}
		sum += float64(c.pods[value])*math.Log(float64(len(c.pods)+2)) + float64(c.maxSkew-1)
	}
	return int64(math.Round(sum))
}
