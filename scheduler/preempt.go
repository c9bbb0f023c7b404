package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Preemption is the plan to make room for a pod: which pods of which node go.
type Preemption struct {
	Node string
	// Victims run on the node and must be deleted.
	Victims []*Pod
	// Displaced only hold a place there for themselves, and lose it.
	Displaced []*Pod

	broken int // disruption budgets that this would overdraw
}

// fitter checks one pod against one node as the snapshot stands now.
type fitter struct {
	pod       *Pod
	checks    []Check
	relations []Relation
	snapshot  *Snapshot
}

func newFitter(p *Pod, profile *Profile, s *Snapshot) *fitter {
	f := &fitter{pod: p, relations: profile.Relations, snapshot: s}
	for _, filter := range profile.Filters {
		if check := filter.For(p); check != nil {
			f.checks = append(f.checks, check)
		}
	}
	return f
}

func (f *fitter) fits(n *Node) bool {
	for _, check := range f.checks {
		if len(check(n)) > 0 {
			return false
		}
	}
	for _, r := range f.relations {
		if related := r.Prepare(f.pod, f.snapshot); related != nil && related.Check != nil && len(related.Check(n)) > 0 {
			return false
		}
	}
	return true
}

// preempt plans what to remove so that a pod which no node takes fits on one:
// nothing of its own priority or above, as little as possible, budgets
// respected where there is a choice. reserved are the pods that only hold a
// place. It returns the plan, or none with the words that say why. The
// snapshot is changed meanwhile and restored. See the documentation, "Pod
// Priority and Preemption".
func preempt(p *Pod, d *Diagnosis, profile *Profile, s *Snapshot, budgets []*policyv1.PodDisruptionBudget, reserved map[types.UID]string) (*Preemption, string) {
	if policy := p.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never."
	}
	if node := p.Status.NominatedNodeName; node != "" && s.leaving(node, priorityOf(p)) {
		return nil, "not eligible due to a terminating pod on the nominated node."
	}
	f := newFitter(p, profile, s)
	var plans []*Preemption
	helpless, without := 0, 0
	for _, n := range slices.Clone(s.nodes) {
		if unresolvable(d.PerNode[n.Name]) {
			helpless++
			continue
		}
		if plan := f.onNode(n, budgets, reserved); plan != nil {
			plans = append(plans, plan)
		} else {
			without++
		}
	}
	if len(plans) == 0 {
		return nil, preemptionMessage(len(s.nodes), without, helpless)
	}
	return slices.MinFunc(plans, gentler), ""
}

func preemptionMessage(nodes, without, helpless int) string {
	var parts []string
	if without > 0 {
		parts = append(parts, fmt.Sprintf("%d No preemption victims found for incoming pod", without))
	}
	if helpless > 0 {
		parts = append(parts, fmt.Sprintf("%d Preemption is not helpful for scheduling", helpless))
	}
	sort.Strings(parts)
	return fmt.Sprintf("preemption: 0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}

func unresolvable(reasons []*Reason) bool {
	return slices.ContainsFunc(reasons, func(r *Reason) bool { return r.Unresolvable || r.Whole })
}

// leaving says that a pod of lower priority is on its way off the node, so
// that waiting is better than removing more.
func (s *Snapshot) leaving(node string, priority int32) bool {
	i, ok := s.byName[node]
	if !ok {
		return false
	}
	for _, p := range s.nodes[i].pods {
		if p.DeletionTimestamp != nil && priorityOf(p) < priority {
			return true
		}
	}
	return false
}

func priorityOf(p *Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// onNode finds the least that must go from a node; nil if nothing helps.
func (f *fitter) onNode(n *Node, budgets []*policyv1.PodDisruptionBudget, reserved map[types.UID]string) *Preemption {
	var lower []*Pod
	for _, other := range n.pods {
		if priorityOf(other) < priorityOf(f.pod) {
			lower = append(lower, other)
		}
	}
	if len(lower) == 0 {
		return nil
	}
	for _, other := range lower {
		f.snapshot.RemovePod(other.UID)
	}
	gone := map[types.UID]bool{}
	defer func() {
		for _, other := range lower {
			if gone[other.UID] {
				f.snapshot.SetPod(other, n.Name)
			}
		}
	}()
	for _, other := range lower {
		gone[other.UID] = true
	}
	if !f.fits(n) {
		return nil
	}
	plan := &Preemption{Node: n.Name}
	overdrawn := overdraws(lower, budgets, reserved)
	// What would break a budget is spared first, then what matters most.
	slices.SortFunc(lower, func(a, b *Pod) int {
		if x, y := overdrawn[a.UID], overdrawn[b.UID]; x != y {
			if x {
				return -1
			}
			return 1
		}
		return moreImportant(a, b)
	})
	for _, other := range lower {
		f.snapshot.SetPod(other, n.Name)
		if f.fits(n) {
			delete(gone, other.UID)
			continue
		}
		f.snapshot.RemovePod(other.UID)
		if _, ok := reserved[other.UID]; ok {
			plan.Displaced = append(plan.Displaced, other)
			continue
		}
		plan.Victims = append(plan.Victims, other)
		if overdrawn[other.UID] {
			plan.broken++
		}
	}
	return plan
}

// moreImportant orders by priority, then by who has run longer.
func moreImportant(a, b *Pod) int {
	if c := cmp.Compare(priorityOf(b), priorityOf(a)); c != 0 {
		return c
	}
	return startOf(a).Compare(startOf(b).Time)
}

func startOf(p *Pod) metav1.Time {
	if p.Status.StartTime != nil {
		return *p.Status.StartTime
	}
	return p.CreationTimestamp
}

// overdraws says which pods' removal, in order of importance, a budget does
// not allow any more.
func overdraws(pods []*Pod, budgets []*policyv1.PodDisruptionBudget, reserved map[types.UID]string) map[types.UID]bool {
	out := map[types.UID]bool{}
	left := map[types.UID]int32{}
	for _, b := range budgets {
		left[b.UID] = b.Status.DisruptionsAllowed
	}
	ordered := slices.Clone(pods)
	slices.SortFunc(ordered, moreImportant)
	for _, p := range ordered {
		if _, ok := reserved[p.UID]; ok || len(p.Labels) == 0 {
			continue
		}
		for _, b := range budgets {
			if b.Namespace != p.Namespace {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || selector.Empty() || !selector.Matches(labels.Set(p.Labels)) {
				continue
			}
			if _, seen := b.Status.DisruptedPods[p.Name]; seen {
				continue // its going is counted already
			}
			if left[b.UID]--; left[b.UID] < 0 {
				out[p.UID] = true
			}
		}
	}
	return out
}

// gentler orders plans: fewer broken budgets, then less important victims,
// fewer of them, and those that have run for the shortest time.
func gentler(a, b *Preemption) int {
	if c := cmp.Compare(a.broken, b.broken); c != 0 {
		return c
	}
	if c := cmp.Compare(a.highest(), b.highest()); c != 0 {
		return c
	}
	if c := cmp.Compare(a.sum(), b.sum()); c != 0 {
		return c
	}
	if c := cmp.Compare(len(a.Victims), len(b.Victims)); c != 0 {
		return c
	}
	return b.earliest().Compare(a.earliest().Time)
}

func (x *Preemption) highest() int64 {
	var out int64 = -1 << 40
	for _, v := range x.Victims {
		out = max(out, int64(priorityOf(v)))
	}
	return out
}

// sum adds the priorities, shifted so that each victim counts as something.
func (x *Preemption) sum() int64 {
	var out int64
	for _, v := range x.Victims {
		out += int64(priorityOf(v)) + 1<<31
	}
	return out
}

// earliest is since when the most important victims have run.
func (x *Preemption) earliest() metav1.Time {
	var out metav1.Time
	for _, v := range x.Victims {
		if int64(priorityOf(v)) != x.highest() {
			continue
		}
		if t := startOf(v); out.IsZero() || t.Before(&out) {
			out = t
		}
	}
	return out
}
