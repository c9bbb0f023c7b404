// Package daemonset runs one pod of a DaemonSet on every node that its
// template fits: sets, nodes and pods in; pod creations and deletions,
// revisions and the set's status out.
package daemonset

import (
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/coxswain/cox/controllers/pods"
)

// burst bounds the pods that one reconcile makes or deletes.
const burst = 250

// State is what a plan is made from.
type State struct {
	Set   *appsv1.DaemonSet
	Nodes []*corev1.Node
	// Pods are all pods that the set controls.
	Pods []*corev1.Pod
	// Hash names the set's present template.
	Hash string
	// Backoff is how long the next try after a failed pod has to wait on a
	// node.
	Backoff func(node string) time.Duration
	Now     time.Time
}

// Deletion is a pod to delete; Failed and Succeeded say that it had ended by
// itself, which is worth an event.
type Deletion struct {
	Pod               *corev1.Pod
	Node              string
	Failed, Succeeded bool
}

// Plan is what one reconcile does.
type Plan struct {
	// Create names the nodes to make a pod for.
	Create []string
	Delete []Deletion
	// Again is when time alone changes something; 0 is never.
	Again  time.Duration
	Status appsv1.DaemonSetStatus
}

// nodeState is a node with the set's pods on it.
type nodeState struct {
	name string
	fit  Fit
	// pods are all but those that have finished and are being deleted.
	pods []*corev1.Pod
}

// planner holds a plan while it is made.
type planner struct {
	State
	plan    Plan
	surging bool
}

// Make plans for a set.
func Make(s State) Plan {
	pl := &planner{State: s}
	nodes, lost := pl.nodes()
	surge, unavailable := limits(s.Set, nodes)
	pl.surging = surge > 0
	pl.status(nodes)
	if s.Set.DeletionTimestamp != nil {
		return pl.plan
	}
	for _, p := range lost {
		pl.delete(p, "")
	}
	for i := range nodes {
		pl.manage(&nodes[i])
	}
	// Replacing waits until the set is whole: what was just planned counts as
	// done only when the informers show it.
	if len(pl.plan.Create) == 0 && len(pl.plan.Delete) == 0 && s.Set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if pl.surging {
			pl.rollSurging(nodes, surge)
		} else {
			pl.roll(nodes, unavailable)
		}
	}
	pl.plan.Create = pl.plan.Create[:min(len(pl.plan.Create), burst)]
	pl.plan.Delete = pl.plan.Delete[:min(len(pl.plan.Delete), burst)]
	return pl.plan
}

// nodes sorts the pods by node. lost are those that wait for a node that is
// gone; the pods that were bound to one are the pod garbage collector's.
func (pl *planner) nodes() (out []nodeState, lost []*corev1.Pod) {
	place := newPlacer(pl.Set)
	at := make(map[string]int, len(pl.Nodes))
	out = make([]nodeState, len(pl.Nodes))
	for i, n := range pl.Nodes {
		at[n.Name] = i
		out[i] = nodeState{name: n.Name, fit: place.on(n)}
	}
	for _, p := range pl.Pods {
		if p.DeletionTimestamp != nil && pods.Finished(p) {
			continue
		}
		i, ok := at[targetNode(p)]
		switch {
		case ok:
			out[i].pods = append(out[i].pods, p)
		case p.Spec.NodeName == "" && p.DeletionTimestamp == nil:
			lost = append(lost, p)
		}
	}
	for i := range out {
		slices.SortStableFunc(out[i].pods, oldestFirst)
	}
	slices.SortFunc(out, func(a, b nodeState) int { return strings.Compare(a.name, b.name) })
	return out, lost
}

// oldestFirst puts bound pods before unbound ones, then the older first.
func oldestFirst(a, b *corev1.Pod) int {
	if (a.Spec.NodeName != "") != (b.Spec.NodeName != "") {
		if a.Spec.NodeName != "" {
			return -1
		}
		return 1
	}
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// limits resolves maxSurge and maxUnavailable, both rounded up. An impossible
// pair of zeros is one unavailable.
func limits(ds *appsv1.DaemonSet, nodes []nodeState) (surge, unavailable int) {
	ru := ds.Spec.UpdateStrategy.RollingUpdate
	if ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return 0, 0
	}
	desired := 0
	for i := range nodes {
		if nodes[i].fit.Run {
			desired++
		}
	}
	scale := func(v *intstr.IntOrString, or int) int {
		if v == nil {
			return or
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, desired, true)
		if err != nil {
			return or
		}
		return n
	}
	unavailable = 1
	if ru != nil {
		surge, unavailable = scale(ru.MaxSurge, 0), scale(ru.MaxUnavailable, 1)
	}
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

func (pl *planner) delete(p *corev1.Pod, node string) {
	pl.plan.Delete = append(pl.plan.Delete, Deletion{Pod: p, Node: node})
}

func (pl *planner) again(d time.Duration) {
	if d > 0 && (pl.plan.Again == 0 || d < pl.plan.Again) {
		pl.plan.Again = d
	}
}

// manage brings a node to the pods it should have, whatever their template.
func (pl *planner) manage(n *nodeState) {
	if len(n.pods) == 0 {
		if n.fit.Run {
			pl.plan.Create = append(pl.plan.Create, n.name)
		}
		return
	}
	var running []*corev1.Pod
	for _, p := range n.pods {
		switch {
		case p.DeletionTimestamp != nil:
		case !n.fit.Stay:
			pl.delete(p, n.name)
		case p.Status.Phase == corev1.PodFailed:
			if wait := pl.Backoff(n.name); wait > 0 {
				pl.again(wait)
				continue
			}
			pl.plan.Delete = append(pl.plan.Delete, Deletion{Pod: p, Node: n.name, Failed: true})
		case p.Status.Phase == corev1.PodSucceeded:
			pl.plan.Delete = append(pl.plan.Delete, Deletion{Pod: p, Node: n.name, Succeeded: true})
		default:
			running = append(running, p)
		}
	}
	if len(running) < 2 {
		return
	}
	if !pl.surging {
		for _, p := range running[1:] {
			pl.delete(p, n.name)
		}
		return
	}
	// One pod of each template may be there meanwhile.
	var fresh, old *corev1.Pod
	for _, p := range running {
		keep := &old
		if pl.updated(p) {
			keep = &fresh
		}
		if *keep != nil {
			pl.delete(p, n.name)
			continue
		}
		*keep = p
	}
	if fresh != nil && old != nil && (!pods.Ready(old) || pl.available(fresh)) {
		pl.delete(old, n.name)
	}
}

func (pl *planner) updated(p *corev1.Pod) bool {
	return p.Labels[appsv1.ControllerRevisionHashLabelKey] == pl.Hash
}

func (pl *planner) available(p *corev1.Pod) bool {
	ok, wait := pods.Available(p, pl.Set.Spec.MinReadySeconds, pl.Now)
	pl.again(wait)
	return ok
}

// living are the node's pods that are not being deleted: after manage at most
// one of each template.
func (pl *planner) living(n *nodeState) (fresh, old *corev1.Pod) {
	for _, p := range n.pods {
		switch {
		case p.DeletionTimestamp != nil || pods.Finished(p):
		case pl.updated(p):
			fresh = p
		default:
			old = p
		}
	}
	return fresh, old
}

// roll deletes old pods: those that serve no one at once, of the others as
// many as may be missing.
func (pl *planner) roll(nodes []nodeState, maxUnavailable int) {
	missing := 0
	var serving []Deletion
	for i := range nodes {
		n := &nodes[i]
		if !n.fit.Run && !(n.fit.Stay && len(n.pods) > 0) {
			continue
		}
		fresh, old := pl.living(n)
		switch {
		case old == nil && fresh != nil && pl.available(fresh):
		case old == nil || fresh != nil:
			missing++
		case !pl.available(old):
			pl.delete(old, n.name)
			missing++
		default:
			serving = append(serving, Deletion{Pod: old, Node: n.name})
		}
	}
	pl.plan.Delete = append(pl.plan.Delete, serving[:min(max(maxUnavailable-missing, 0), len(serving))]...)
}

// rollSurging makes new pods beside old ones: wherever the old one serves no
// one, elsewhere as many as may be extra. manage deletes an old pod once the
// new one is available.
func (pl *planner) rollSurging(nodes []nodeState, maxSurge int) {
	extra := 0
	var serving []string
	for i := range nodes {
		n := &nodes[i]
		if !n.fit.Run {
			continue
		}
		fresh, old := pl.living(n)
		switch {
		case old == nil:
		case fresh != nil:
			extra++
		case len(n.pods) > 1:
			extra++ // another is on its way out; the node has its share
		case !pl.available(old):
			pl.plan.Create = append(pl.plan.Create, n.name)
		default:
			serving = append(serving, n.name)
		}
	}
	pl.plan.Create = append(pl.plan.Create, serving[:min(max(maxSurge-extra, 0), len(serving))]...)
}

func (pl *planner) status(nodes []nodeState) {
	st := appsv1.DaemonSetStatus{ObservedGeneration: pl.Set.Generation,
		CollisionCount: pl.Set.Status.CollisionCount, Conditions: pl.Set.Status.Conditions}
	for i := range nodes {
		n := &nodes[i]
		switch {
		case n.fit.Run:
			st.DesiredNumberScheduled++
			if len(n.pods) == 0 {
				continue
			}
			st.CurrentNumberScheduled++
			p := n.pods[0]
			if pods.Ready(p) {
				st.NumberReady++
				if pl.available(p) {
					st.NumberAvailable++
				}
			}
			if pl.updated(p) {
				st.UpdatedNumberScheduled++
			}
		case len(n.pods) > 0:
			st.NumberMisscheduled++
		}
	}
	st.NumberUnavailable = st.DesiredNumberScheduled - st.NumberAvailable
	pl.plan.Status = st
}
