// Package garbagecollector deletes what has no owner any more: objects of all
// kinds and their owner references in; deletions, released dependents and
// removed finalizers out.
package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// node is an object in the graph of owners. A virtual one is known only from
// the references of its dependents.
type node struct {
	uid        types.UID
	resource   schema.GroupVersionResource // empty while virtual
	namespace  string                      // of the object; of the first dependent while virtual
	ref        metav1.OwnerReference       // how dependents name it; set while virtual
	obj        metav1.Object               // nil while virtual; shared, read only
	dependents map[types.UID]*node
}

func (n *node) virtual() bool { return n.obj == nil }

func (n *node) deleting() bool { return n.obj != nil && n.obj.GetDeletionTimestamp() != nil }

// foreground says that the object waits for its dependents to go first.
func (n *node) foreground() bool {
	return n.deleting() && slices.Contains(n.obj.GetFinalizers(), metav1.FinalizerDeleteDependents)
}

// orphaning says that the object waits for its dependents to be released.
func (n *node) orphaning() bool {
	return n.deleting() && slices.Contains(n.obj.GetFinalizers(), metav1.FinalizerOrphanDependents)
}

func (n *node) owners() []metav1.OwnerReference {
	if n.obj == nil {
		return nil
	}
	return n.obj.GetOwnerReferences()
}

// blocks says that dep, while it exists, holds up n's foreground deletion.
func (n *node) blocks(dep *node) bool {
	for _, r := range dep.owners() {
		if r.UID == n.uid && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion {
			return true
		}
	}
	return false
}

// awaits says that n's foreground deletion waits for other's, directly or by
// way of others that are being deleted so, or that n is other: who owns itself
// in a circle is not to wait for itself.
func (n *node) awaits(other *node) bool {
	seen := map[*node]bool{}
	var reach func(at *node) bool
	reach = func(at *node) bool {
		if at == other {
			return true
		}
		if seen[at] || !at.foreground() {
			return false
		}
		seen[at] = true
		for _, d := range at.dependents {
			if at.blocks(d) && reach(d) {
				return true
			}
		}
		return false
	}
	return reach(n)
}

// graph is who owns whom, as the informers have told so far. Methods return
// the UIDs whose situation may have changed; it is safe for concurrent use.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
}

func newGraph() *graph { return &graph{nodes: map[types.UID]*node{}} }

// put adds or updates an object.
func (g *graph) put(res schema.GroupVersionResource, obj metav1.Object) (wake []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	uid := obj.GetUID()
	n := g.nodes[uid]
	var before []metav1.OwnerReference
	known := false
	if n == nil {
		if len(obj.GetOwnerReferences()) == 0 && len(obj.GetFinalizers()) == 0 {
			// Most objects own nothing and are owned by nothing. One that gets a
			// dependent is added then, as a virtual node, and verified.
			return nil
		}
		n = &node{uid: uid}
		g.nodes[uid] = n
	} else {
		known = !n.virtual()
		before = n.owners()
	}
	wasForeground, wasOrphaning := n.foreground(), n.orphaning()
	n.resource, n.namespace, n.obj = res, obj.GetNamespace(), obj
	if !known || !sameRefs(before, obj.GetOwnerReferences()) {
		wake = g.relink(n, before)
		if len(n.owners()) > 0 {
			wake = append(wake, uid)
		}
	}
	if n.foreground() && !wasForeground || n.orphaning() && !wasOrphaning {
		wake = append(wake, uid)
	}
	if n.foreground() && known {
		wake = append(wake, uid)
	}
	return wake
}

func sameRefs(a, b []metav1.OwnerReference) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool {
		return x.UID == y.UID && x.APIVersion == y.APIVersion && x.Kind == y.Kind && x.Name == y.Name &&
			(x.BlockOwnerDeletion != nil && *x.BlockOwnerDeletion) == (y.BlockOwnerDeletion != nil && *y.BlockOwnerDeletion)
	})
}

// relink hangs n under its owners. Owners that it no longer has, or no longer
// blocks, are woken: they may have waited for it.
func (g *graph) relink(n *node, before []metav1.OwnerReference) (wake []types.UID) {
	for _, r := range before {
		o := g.nodes[r.UID]
		if o == nil {
			continue
		}
		if o.foreground() {
			wake = append(wake, o.uid)
		}
		delete(o.dependents, n.uid)
		g.drop(o)
	}
	for _, r := range n.owners() {
		o := g.nodes[r.UID]
		if o == nil {
			o = &node{uid: r.UID, namespace: n.namespace, ref: r}
			g.nodes[r.UID] = o
			wake = append(wake, o.uid)
		}
		if o.dependents == nil {
			o.dependents = map[types.UID]*node{}
		}
		o.dependents[n.uid] = n
	}
	return wake
}

// drop forgets a virtual node that nothing refers to any more.
func (g *graph) drop(n *node) {
	if n.virtual() && len(n.dependents) == 0 {
		delete(g.nodes, n.uid)
	}
}

// remove takes an object, real or virtual, out. Its dependents lose an owner,
// its owners a dependent that they may wait for.
func (g *graph) remove(uid types.UID) (wake []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	delete(g.nodes, uid)
	for id := range n.dependents {
		wake = append(wake, id)
	}
	for _, r := range n.owners() {
		o := g.nodes[r.UID]
		if o == nil {
			continue
		}
		delete(o.dependents, uid)
		if o.foreground() {
			wake = append(wake, o.uid)
		}
		g.drop(o)
	}
	return wake
}

// situation is what a decision about one object is made on: a copy of the
// graph around it.
type situation struct {
	node       node // without dependents
	dependents []dependent
	owners     []owner
}

type dependent struct {
	node
	blocks bool
}

type owner struct {
	ref metav1.OwnerReference
	// known: the graph has the owner itself, where the reference says.
	known      bool
	foreground bool
}

// look copies what the graph knows around an object; false when it does not
// know it. namespaced says whether objects of a reference's kind have a
// namespace (and whether the kind is known at all).
func (g *graph) look(uid types.UID, kind func(metav1.OwnerReference) (schema.GroupVersionResource, bool, bool)) (situation, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return situation{}, false
	}
	s := situation{node: *n}
	s.node.dependents = nil
	for _, d := range n.dependents {
		dep := dependent{node: *d, blocks: n.blocks(d) && !d.awaits(n)}
		dep.dependents = nil
		s.dependents = append(s.dependents, dep)
	}
	for _, r := range n.owners() {
		o := owner{ref: r}
		if have := g.nodes[r.UID]; have != nil && !have.virtual() {
			res, namespaced, ok := kind(r)
			where := have.namespace == "" || have.namespace == n.namespace
			o.known = ok && where && namespaced == (have.namespace != "") &&
				res.GroupResource() == have.resource.GroupResource() && have.obj.GetName() == r.Name
			o.foreground = have.foreground()
		}
		s.owners = append(s.owners, o)
	}
	return s, true
}

// fill turns a virtual node into the object that it stands for, unless it is
// gone or filled already.
func (g *graph) fill(res schema.GroupVersionResource, obj metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.nodes[obj.GetUID()]; n != nil && n.virtual() {
		n.resource, n.namespace, n.obj = res, obj.GetNamespace(), obj
	}
}

// dependentsOf returns the UIDs of an object's dependents.
func (g *graph) dependentsOf(uid types.UID) (out []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.nodes[uid]; n != nil {
		for id := range n.dependents {
			out = append(out, id)
		}
	}
	return out
}
