// Package scheduler gives pods to nodes: unscheduled pods and the state of
// the nodes come in from informers, bindings go out through the API. What
// decides is the scheduling framework's filters and scores over a snapshot
// that is kept in dense arrays and updated in place.
package scheduler

import (
	"fmt"
	"sort"
	"strings"
)

// Reason is one structured "no": which plugin refuses a node and why, in the
// words upstream uses. Reasons are shared and read only.
type Reason struct {
	Plugin string
	Text   string
	// Unresolvable says that removing pods from the node would not help, so
	// preemption need not look at it.
	Unresolvable bool
	// Whole says that the reason is the pod's, whatever the node.
	Whole bool
	// Fault says that the plugin failed, rather than refused.
	Fault bool
}

// Check is a filter prepared for one pod: it returns why the pod cannot run
// on the node, or nothing. It must depend on the pod's shape and the node
// alone: its results are shared by all pods of that shape.
type Check func(n *Node) []*Reason

// Filter is the framework's Filter point with its PreFilter folded in.
type Filter interface {
	Name() string
	// For prepares the check for a pod. nil means that this filter has
	// nothing against any node, and is not asked again.
	For(p *Pod) Check
	// Wakes says which events may turn this filter's "no" into a "yes".
	Wakes() Event
}

// Rate is a score prepared for one pod: the node's raw score, higher is
// better unless the scorer's Normalize says otherwise. It depends, like
// Check, on the pod's shape and the node alone.
type Rate func(n *Node) int64

// Scorer is the framework's Score point with its PreScore folded in.
type Scorer interface {
	Name() string
	// For prepares the rating of a pod; nil leaves this scorer out.
	For(p *Pod, s *Snapshot) Rate
	// Normalize brings a raw score into 0..MaxScore, given the greatest raw
	// score of any feasible node.
	Normalize(raw, highest int64) int64
}

// MaxScore is the best normalized score of one plugin.
const MaxScore = 100

// Weighted is a scorer with its weight in the sum.
type Weighted struct {
	Scorer
	Weight int64
}

// Profile is the set of plugins that serves the pods of one schedulerName.
type Profile struct {
	Name    string
	Filters []Filter
	Scorers []Weighted
	// Relations come after the filters.
	Relations []Relation
}

// DefaultProfile is upstream's default plugin set, in its order and with its
// weights, as far as it is built.
func DefaultProfile() *Profile {
	return &Profile{
		Name: "default-scheduler",
		Filters: []Filter{
			nodeUnschedulable{}, nodeName{}, taintToleration{}, nodeAffinity{}, nodePorts{}, resourcesFit{nil},
		},
		Scorers: []Weighted{
			{taintScore{}, 3}, {affinityScore{}, 2}, {leastAllocated{}, 1}, {balancedAllocation{}, 1}, {imageLocality{}, 1},
		},
		Relations: []Relation{podSpread{}, podAffinity{}},
	}
}

// Event is a set of things that happen in the cluster and may make a pod
// schedulable.
type Event uint32

// The events that filters wait for.
const (
	NodeAdded Event = 1 << iota
	NodeAllocatable
	NodeLabels
	NodeTaints
	NodeUnschedulable // spec.unschedulable or a condition changed
	PodRemoved        // an assigned pod went away or finished
	PodPlaced         // another pod was assigned
	PodUpdated        // the waiting pod itself changed
	StorageChanged    // a claim, a volume or a storage class came or changed
	DevicesChanged    // a resource claim, a device class or a resource slice came, changed or went
	Timeout           // waited long enough to be tried anyway
)

// Diagnosis says why no node takes a pod.
type Diagnosis struct {
	// Nodes is how many nodes there are.
	Nodes int
	// Reasons counts the nodes per reason text.
	Reasons map[string]int
	// Plugins are those that refused at least one node.
	Plugins map[string]bool
	// Whole is the reason that holds for the pod on any node, "" if there is
	// none. Fault is the plugin that failed with it.
	Whole, Fault string
	// PerNode lists the reasons node by node, for explanations; nil unless
	// asked for.
	PerNode map[string][]*Reason
}

func (d *Diagnosis) add(node string, reasons []*Reason) {
	for _, r := range reasons {
		d.Reasons[r.Text]++
		if r.Whole {
			d.Whole = r.Text
		}
		if r.Fault {
			d.Fault = r.Plugin
		}
		d.Plugins[r.Plugin] = true
	}
	if d.PerNode != nil {
		d.PerNode[node] = reasons
	}
}

// Message is the text of the FailedScheduling event and of the PodScheduled
// condition: "0/3 nodes are available: 1 Insufficient cpu, 2 ...".
func (d *Diagnosis) Message() string {
	if d.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if d.Fault != "" {
		return fmt.Sprintf("running %q filter plugin: %s", d.Fault, d.Whole)
	}
	if d.Whole != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, d.Whole)
	}
	parts := make([]string, 0, len(d.Reasons))
	for text, n := range d.Reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, text))
	}
	sort.Strings(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(parts, ", "))
}
