package scheduler

import (
	"container/list"
	"encoding/json"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// maxSpreadCells bounds what spreads keeps: constraints times nodes, at some
// 20 bytes each. A spreading that was dropped is counted anew.
const maxSpreadCells = 1 << 20

// spreading is the spread constraints of pods of one shape in one namespace.
// It is counted once and then follows every pod that comes to or leaves a
// node, so that a placement costs nothing that grows with the number of pods.
type spreading struct {
	key        string
	namespace  string
	label      label // one that every pod carries which any of them selects
	hard, soft []*constraint
	survey     uint64 // spreads.survey that it was counted at
}

// label is a key with its value; zero where pods cannot be told by one.
type label struct{ key, value string }

// spreads are the spreadings used last. Those of a namespace are found by a
// label that a pod must have, so that a pod meets only its own.
type spreads struct {
	// survey changes with the nodes: which there are, their labels and taints.
	survey  uint64
	byKey   map[string]*list.Element
	byLabel map[string]map[label][]*spreading // by namespace
	order   *list.List
	cells   int
}

func newSpreads() spreads {
	return spreads{byKey: map[string]*list.Element{}, byLabel: map[string]map[label][]*spreading{}, order: list.New()}
}

// of returns the constraints of a pod with up-to-date counts; nil if it has
// none. They are valid until the snapshot changes.
func (r *spreads) of(p *Pod, s *Snapshot) *spreading {
	key := p.spreadKey()
	if key == "" {
		return nil
	}
	if e, ok := r.byKey[key]; ok {
		r.order.MoveToFront(e)
		sp := e.Value.(*spreading)
		if sp.survey != r.survey {
			r.cells -= sp.cells()
			sp.recount(p, s)
			r.cells += sp.cells()
		}
		return sp
	}
	sp := newSpreading(key, p)
	sp.recount(p, s)
	r.byKey[key] = r.order.PushFront(sp)
	labelled := r.byLabel[sp.namespace]
	if labelled == nil {
		labelled = map[label][]*spreading{}
		r.byLabel[sp.namespace] = labelled
	}
	labelled[sp.label] = append(labelled[sp.label], sp)
	r.cells += sp.cells()
	for r.cells > maxSpreadCells && r.order.Len() > 1 {
		r.evict(r.order.Back())
	}
	return sp
}

func (r *spreads) evict(e *list.Element) {
	sp := r.order.Remove(e).(*spreading)
	delete(r.byKey, sp.key)
	r.cells -= sp.cells()
	labelled := r.byLabel[sp.namespace]
	labelled[sp.label] = slices.DeleteFunc(labelled[sp.label], func(o *spreading) bool { return o == sp })
	if len(labelled[sp.label]) == 0 {
		delete(labelled, sp.label)
	}
	if len(labelled) == 0 {
		delete(r.byLabel, sp.namespace)
	}
}

// count tells the spreadings of a pod that came to a node (1) or left it (-1).
func (r *spreads) count(p *Pod, n *Node, sign int64) {
	labelled := r.byLabel[p.Namespace]
	if len(labelled) == 0 {
		return
	}
	tell := func(l label) {
		for _, sp := range labelled[l] {
			if sp.survey == r.survey { // else it is counted anew when it is asked for
				sp.count(p, n, sign)
			}
		}
	}
	tell(label{})
	for k, v := range p.Labels {
		tell(label{k, v})
	}
}

// spreadKey names the pod's spread constraints and all that decides which
// nodes and pods count for them; "" if it has none.
func (p *Pod) spreadKey() string {
	if p.spread != nil {
		return *p.spread
	}
	var key strings.Builder
	if len(p.Spec.TopologySpreadConstraints) > 0 {
		part(&key, p.Namespace, p.Spec.TopologySpreadConstraints, p.Spec.Tolerations)
	} else if set := defaultSet(p); set != nil {
		key.WriteString(p.Namespace + "/" + set.String())
	}
	if key.Len() > 0 && (len(p.Spec.NodeSelector) > 0 || p.Spec.Affinity != nil && p.Spec.Affinity.NodeAffinity != nil) {
		var required any
		if p.Spec.Affinity != nil && p.Spec.Affinity.NodeAffinity != nil {
			required = p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		part(&key, p.Spec.NodeSelector, required)
	}
	out := key.String()
	p.spread = &out
	return out
}

func part(key *strings.Builder, parts ...any) {
	raw, _ := json.Marshal(parts) // plain data: cannot fail
	key.Write(raw)
}

func newSpreading(key string, p *Pod) *spreading {
	sp := &spreading{key: key, namespace: p.Namespace}
	if len(p.Spec.TopologySpreadConstraints) == 0 {
		sp.soft = defaultConstraints(defaultSet(p))
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		c := newConstraint(t)
		switch {
		case c == nil:
		case t.WhenUnsatisfiable == corev1.DoNotSchedule:
			sp.hard = append(sp.hard, c)
		default:
			sp.soft = append(sp.soft, c)
		}
	}
	sp.label = commonLabel(append(slices.Clone(sp.hard), sp.soft...))
	return sp
}

// commonLabel finds a label that every selector requires. That of a template
// is told apart best by the hash that its controller adds.
func commonLabel(all []*constraint) label {
	var found label
	if len(all) == 0 {
		return found
	}
	requirements, _ := all[0].selector.Requirements()
	for _, r := range requirements {
		value, exact := all[0].selector.RequiresExactMatch(r.Key())
		for _, c := range all[1:] {
			other, too := c.selector.RequiresExactMatch(r.Key())
			exact = exact && too && other == value
		}
		if exact && (found.key == "" || r.Key() == appsv1.DefaultDeploymentUniqueLabelKey) {
			found = label{r.Key(), value}
		}
	}
	return found
}

func (sp *spreading) cells() int {
	n := 0
	for _, c := range sp.hard {
		n += len(c.domain)
	}
	for _, c := range sp.soft {
		n += len(c.domain)
	}
	return n
}

// recount looks at all nodes and at all pods of the namespace.
func (sp *spreading) recount(p *Pod, s *Snapshot) {
	sp.survey = s.spreads.survey
	fits := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	soft := sp.soft
	if len(p.Spec.TopologySpreadConstraints) == 0 {
		soft = nil // the default ones make do with the keys that nodes have
	}
	for _, c := range sp.hard {
		c.survey(p, s, fits, sp.hard)
	}
	for _, c := range sp.soft {
		c.survey(p, s, fits, soft)
	}
	for _, pl := range s.byNamespace[sp.namespace] {
		sp.count(pl.pod, pl.node, 1)
	}
}

func (sp *spreading) count(p *Pod, n *Node, sign int64) {
	for _, c := range sp.hard {
		c.count(p, n, sign)
	}
	for _, c := range sp.soft {
		c.count(p, n, sign)
	}
}
