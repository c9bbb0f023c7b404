package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Relation is a filter and score whose answer depends on the other pods of
// the cluster, so that it cannot be shared by pods of one shape. It is
// prepared for each placement, and only pods that have such a relation pay.
type Relation interface {
	Name() string
	// Prepare looks at the other pods once; nil means that there is nothing
	// to check or rate for this pod.
	Prepare(p *Pod, s *Snapshot) *Related
	Wakes() Event
}

// Related is a relation prepared for one pod. Check and Rate may be nil.
type Related struct {
	Check Check
	// Rate gives a node's raw score. Prefer says what a raw score is worth in
	// 0..MaxScore, given the least and the greatest of all feasible nodes.
	Rate   Rate
	Prefer func(raw, lowest, highest int64) int64
	Weight int64
}

// topology is one value of one topology key ("zone", "a").
type topology struct{ key, value string }

// topologyOf returns where a node lies under a key.
func (n *Node) topologyOf(key string) (topology, bool) {
	v, ok := n.Labels[key]
	return topology{key, v}, ok
}

// counts adds up weights per topology value.
type counts map[topology]int64

// term is a pod affinity term, prepared.
type term struct {
	selector   labels.Selector
	namespaces map[string]bool
	// everywhere and nsSelector widen the namespaces.
	nsSelector  labels.Selector
	topologyKey string
	weight      int64
}

// newTerm prepares a term of a pod in the namespace; ok is false for one that
// can match nothing.
func newTerm(t *corev1.PodAffinityTerm, namespace string, weight int32) (term, bool) {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return term{}, false
	}
	out := term{selector: selector, namespaces: map[string]bool{}, topologyKey: t.TopologyKey, weight: int64(weight)}
	for _, ns := range t.Namespaces {
		out.namespaces[ns] = true
	}
	if t.NamespaceSelector != nil {
		if out.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return term{}, false
		}
	} else if len(t.Namespaces) == 0 {
		out.namespaces[namespace] = true
	}
	return out, true
}

// matches says that the term selects a pod.
func (t *term) matches(p *corev1.Pod, s *Snapshot) bool {
	if !t.namespaces[p.Namespace] && (t.nsSelector == nil || !t.nsSelector.Matches(s.namespaces[p.Namespace])) {
		return false
	}
	return t.selector.Matches(labels.Set(p.Labels))
}

// affinityTerms are the four lists of a pod's affinity to pods.
type affinityTerms struct {
	required, forbidden, preferred, avoided []term
}

// affinityTermsOf returns nil for a pod without any.
func affinityTermsOf(p *corev1.Pod) *affinityTerms {
	a := p.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	out := &affinityTerms{}
	add := func(list *[]term, t *corev1.PodAffinityTerm, weight int32) {
		if prepared, ok := newTerm(t, p.Namespace, weight); ok {
			*list = append(*list, prepared)
		}
	}
	if pa := a.PodAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&out.required, &pa.RequiredDuringSchedulingIgnoredDuringExecution[i], 1)
		}
		for i := range pa.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &pa.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&out.preferred, &w.PodAffinityTerm, w.Weight)
		}
	}
	if pa := a.PodAntiAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&out.forbidden, &pa.RequiredDuringSchedulingIgnoredDuringExecution[i], 1)
		}
		for i := range pa.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &pa.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&out.avoided, &w.PodAffinityTerm, w.Weight)
		}
	}
	return out
}

// related keeps, for the pods on nodes, what relations look up: the pods of
// each namespace and those that have affinity terms of their own.
type related struct {
	byNamespace map[string]map[types.UID]placed
	withTerms   map[types.UID]placed
	namespaces  map[string]labels.Set
	spreads     spreads
}

// placed is a pod with its node.
type placed struct {
	pod  *Pod
	node *Node
}

func newRelated() related {
	return related{
		byNamespace: map[string]map[types.UID]placed{}, withTerms: map[types.UID]placed{}, namespaces: map[string]labels.Set{},
		spreads: newSpreads(),
	}
}

func (r *related) put(p *Pod, n *Node) {
	pods := r.byNamespace[p.Namespace]
	if pods == nil {
		pods = map[types.UID]placed{}
		r.byNamespace[p.Namespace] = pods
	}
	pods[p.UID] = placed{p, n}
	r.spreads.count(p, n, 1)
	if p.terms != nil {
		r.withTerms[p.UID] = placed{p, n}
	}
}

func (r *related) drop(p *Pod) {
	pods := r.byNamespace[p.Namespace]
	if pl, ok := pods[p.UID]; ok {
		r.spreads.count(pl.pod, pl.node, -1)
	}
	delete(pods, p.UID)
	if len(pods) == 0 {
		delete(r.byNamespace, p.Namespace)
	}
	delete(r.withTerms, p.UID)
}

// swap replaces the object of a pod that stays where it is and what it is.
func (r *related) swap(p *Pod, n *Node) {
	r.byNamespace[p.Namespace][p.UID] = placed{p, n}
	if p.terms != nil {
		r.withTerms[p.UID] = placed{p, n}
	}
}

// SetNamespace records a namespace's labels, which terms may select by.
func (s *Snapshot) SetNamespace(name string, set labels.Set) { s.namespaces[name] = set }

// RemoveNamespace forgets a namespace.
func (s *Snapshot) RemoveNamespace(name string) { delete(s.namespaces, name) }

// eachPlaced calls f for every pod on a node that the term could select.
func (s *Snapshot) eachPlaced(t *term, f func(placed)) {
	if t.nsSelector == nil {
		for ns := range t.namespaces {
			for _, pl := range s.byNamespace[ns] {
				f(pl)
			}
		}
		return
	}
	for ns, pods := range s.byNamespace {
		if t.namespaces[ns] || t.nsSelector.Matches(s.namespaces[ns]) {
			for _, pl := range pods {
				f(pl)
			}
		}
	}
}
