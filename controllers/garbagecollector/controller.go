package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/controllers"
)

const (
	workers = 10
	// syncFor is how long the collector waits for all resources before it
	// begins; one that cannot be listed must not stop the others.
	syncFor = 30 * time.Second
	// absentOwners is how many owners are remembered as not existing: enough
	// for the dependents of those deleted last. UIDs never come back.
	absentOwners = 500
)

// Controller is the garbage collector.
type Controller struct {
	env      controllers.Env
	discover controllers.Discovery
	changed  <-chan struct{}
	graph    *graph
	loop     *client.Loop
	absent   *lru.Cache

	mu      sync.RWMutex
	kinds   map[schema.GroupKind]controllers.Resource
	watched map[schema.GroupVersionResource]cache.SharedIndexInformer
}

// New makes the collector. changed tells that discover may return something
// else now (a CustomResourceDefinition came or went); nil means never.
func New(env controllers.Env, discover controllers.Discovery, changed <-chan struct{}) (*Controller, error) {
	c := &Controller{
		env: env, discover: discover, changed: changed, graph: newGraph(), absent: lru.New(absentOwners),
		kinds: map[schema.GroupKind]controllers.Resource{}, watched: map[schema.GroupVersionResource]cache.SharedIndexInformer{},
	}
	c.loop = env.NewLoop("garbage_collector_attempt_to_delete", c.reconcile)
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	c.watch(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.loop.Run(ctx, c.env.WorkersOr(workers)) })
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-c.changed:
			c.watch(ctx)
		}
	}
}

// watch brings the informers in line with what is served, and waits for them.
func (c *Controller) watch(ctx context.Context) {
	all, err := c.discover(ctx)
	if err != nil {
		c.env.Log.Warn("discovery is incomplete; owners of missing kinds are left alone", "error", err)
	}
	var fresh []cache.DoneChecker
	seen := map[schema.GroupResource]bool{}
	c.mu.Lock()
	kinds := map[schema.GroupKind]controllers.Resource{}
	served := map[schema.GroupVersionResource]bool{}
	for _, r := range all {
		gk := schema.GroupKind{Group: r.Group, Kind: r.Kind}
		if _, ok := kinds[gk]; !ok {
			kinds[gk] = r
		}
		if seen[r.GroupResource()] || !r.Can("list", "watch", "delete") || r.Resource == "events" {
			continue // events neither own nor are owned, and are many
		}
		seen[r.GroupResource()], served[r.GroupVersionResource] = true, true
		if c.watched[r.GroupVersionResource] == nil {
			inf := c.env.Informers.Any(r.GroupVersionResource)
			h, err := inf.AddEventHandler(c.handler(r.GroupVersionResource))
			if err != nil {
				c.env.Log.Error("cannot watch", "resource", r.GroupVersionResource, "error", err)
				continue
			}
			c.watched[r.GroupVersionResource] = inf
			fresh = append(fresh, h.HasSyncedChecker())
		}
	}
	if err == nil {
		for gvr := range c.watched {
			if !served[gvr] {
				delete(c.watched, gvr)
				c.env.Informers.Drop(gvr)
			}
		}
	} else {
		for gk, r := range c.kinds {
			if _, ok := kinds[gk]; !ok {
				kinds[gk] = r
			}
		}
	}
	c.kinds = kinds
	c.mu.Unlock()
	c.env.Informers.Start(ctx)
	syncCtx, cancel := context.WithTimeout(ctx, syncFor)
	defer cancel()
	if !client.WaitForSync(syncCtx, fresh...) && ctx.Err() == nil {
		c.env.Log.Warn("not all resources could be listed in time; going on", "waited", syncFor)
	}
}

func (c *Controller) handler(gvr schema.GroupVersionResource) cache.ResourceEventHandler {
	wake := func(ids []types.UID) {
		for _, id := range ids {
			c.loop.Add(string(id))
		}
	}
	put := func(o any) {
		if m, err := controllers.Accessor(o); err == nil {
			wake(c.graph.put(gvr, m))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    put,
		UpdateFunc: func(_, o any) { put(o) },
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			if m, err := controllers.Accessor(o); err == nil {
				c.forgotten(gvr, m)
				wake(c.graph.remove(m.GetUID()))
			}
		},
	}
}

// forgotten notes that an object is gone, which spares its dependents'
// looking for it.
func (c *Controller) forgotten(gvr schema.GroupVersionResource, m metav1.Object) {
	c.absent.Add(place{gvr.GroupResource(), m.GetNamespace(), m.GetName(), m.GetUID()}, deleted)
}

// What is remembered of an absent owner.
const (
	deleted  = "seen to go"
	notFound = "looked for in vain"
)

// place is where a reference says that its owner is.
type place struct {
	schema.GroupResource
	namespace, name string
	uid             types.UID
}

// kind resolves a reference's kind: its resource, and whether it has
// namespaces; ok is false for a kind that is not served.
func (c *Controller) kind(r metav1.OwnerReference) (gvr schema.GroupVersionResource, namespaced, ok bool) {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return gvr, false, false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	res, ok := c.kinds[schema.GroupKind{Group: gv.Group, Kind: r.Kind}]
	return res.GroupVersionResource, res.Namespaced, ok
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	uid := types.UID(key)
	s, ok := c.graph.look(uid, c.kind)
	if !ok {
		return 0, nil
	}
	if s.node.virtual() {
		return 0, c.verify(ctx, &s.node)
	}
	owners := make([]presence, len(s.owners))
	if !s.node.deleting() {
		for i, o := range s.owners {
			var err error
			if owners[i], err = c.find(ctx, &s, o); err != nil {
				return 0, err
			}
		}
	}
	a := decide(&s, owners)
	for _, id := range a.wake {
		c.loop.Add(string(id))
	}
	err := c.apply(ctx, &s, a)
	if apierrors.IsNotFound(err) {
		return 0, nil // its deletion is on its way to the informer
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s/%s: %w", s.node.resource.Resource, s.node.namespace, s.node.obj.GetName(), err)
	}
	return 0, nil
}

// find says whether an owner exists where the reference says.
func (c *Controller) find(ctx context.Context, s *situation, o owner) (presence, error) {
	if o.known {
		return present, nil
	}
	gvr, namespaced, ok := c.kind(o.ref)
	if !ok {
		return present, fmt.Errorf("owner %s %s of %s: its kind is not served", o.ref.Kind, o.ref.Name, s.node.obj.GetName())
	}
	ns := ""
	if namespaced {
		if ns = s.node.namespace; ns == "" {
			return unresolvable, nil // a cluster-scoped object cannot have an owner in a namespace
		}
	}
	there, err := c.exists(ctx, gvr, ns, o.ref.Name, o.ref.UID)
	switch {
	case err != nil:
		return present, err
	case there:
		return present, nil
	}
	if namespaced && c.elsewhere(gvr, place{gvr.GroupResource(), ns, o.ref.Name, o.ref.UID}) {
		c.env.Events.Eventf(c.about(s), corev1.EventTypeWarning, "OwnerRefInvalidNamespace",
			"ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
			o.ref.APIVersion, o.ref.Kind, ns, o.ref.Name, o.ref.UID, ns)
	}
	return absent, nil
}

// elsewhere says that an owner which is not where its dependent looks for it
// lives in another namespace: a mistake that the user should hear of. It
// looks only if the owner was not seen to go.
func (c *Controller) elsewhere(gvr schema.GroupVersionResource, at place) bool {
	if seen, _ := c.absent.Get(at); seen == deleted {
		return false
	}
	c.mu.RLock()
	inf := c.watched[gvr]
	c.mu.RUnlock()
	if inf == nil {
		return false
	}
	for _, o := range inf.GetStore().List() {
		if m, ok := o.(metav1.Object); ok && m.GetUID() == at.uid {
			return true
		}
	}
	return false
}

func (c *Controller) about(s *situation) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{Namespace: s.node.namespace, Name: s.node.obj.GetName(), UID: s.node.uid,
		APIVersion: s.node.resource.GroupVersion().String()}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for gk, r := range c.kinds {
		if r.GroupVersionResource == s.node.resource {
			ref.Kind = gk.Kind
		}
	}
	return ref
}

// exists looks in the informer, then asks the API: only its "no" counts.
func (c *Controller) exists(ctx context.Context, gvr schema.GroupVersionResource, ns, name string, uid types.UID) (bool, error) {
	at := place{gvr.GroupResource(), ns, name, uid}
	if _, gone := c.absent.Get(at); gone {
		return false, nil
	}
	if m := c.cached(gvr, ns, name); m != nil && m.GetUID() == uid {
		return true, nil
	}
	got, err := c.env.Client.Do(ctx, &client.Request{Verb: client.Get, Resource: gvr, Namespace: ns, Name: name})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("looking for owner %s %s/%s: %w", gvr.Resource, ns, name, err)
	}
	if err == nil {
		m, err := controllers.Accessor(got.Object)
		if err != nil {
			return false, err
		}
		if m.GetUID() == uid {
			return true, nil
		}
	}
	c.absent.Add(at, notFound)
	return false, nil
}

func (c *Controller) cached(gvr schema.GroupVersionResource, ns, name string) metav1.Object {
	c.mu.RLock()
	inf := c.watched[gvr]
	c.mu.RUnlock()
	if inf == nil {
		return nil
	}
	o, ok, err := inf.GetStore().GetByKey(cache.ObjectName{Namespace: ns, Name: name}.String())
	if err != nil || !ok {
		return nil
	}
	m, _ := o.(metav1.Object)
	return m
}

// verify finds out whether an owner exists that is known from its dependents
// only.
func (c *Controller) verify(ctx context.Context, n *node) error {
	gvr, namespaced, ok := c.kind(n.ref)
	if !ok {
		return fmt.Errorf("owner %s %s: its kind is not served", n.ref.Kind, n.ref.Name)
	}
	ns := ""
	if namespaced {
		if ns = n.namespace; ns == "" {
			return nil // the dependent's own look finds this reference unresolvable
		}
	}
	if m := c.cached(gvr, ns, n.ref.Name); m != nil && m.GetUID() == n.uid {
		c.graph.fill(gvr, m)
		return nil
	}
	there, err := c.exists(ctx, gvr, ns, n.ref.Name, n.uid)
	if err != nil || there {
		return err // the informer will show it
	}
	for _, id := range c.graph.dependentsOf(n.uid) {
		c.loop.Add(string(id))
	}
	return nil
}

func (c *Controller) apply(ctx context.Context, s *situation, a action) error {
	switch a.kind {
	case keepRefs:
		return c.patch(ctx, &s.node, map[string]any{"ownerReferences": a.refs})
	case keepFinalizers:
		return c.patch(ctx, &s.node, map[string]any{"finalizers": a.finalizers})
	case orphan:
		return c.orphan(ctx, s)
	case remove:
		if a.unblock {
			if err := c.patch(ctx, &s.node, map[string]any{"ownerReferences": a.refs}); err != nil {
				return err
			}
		}
		return c.delete(ctx, s, a)
	}
	return nil
}

func (c *Controller) delete(ctx context.Context, s *situation, a action) error {
	uid, rv, policy := s.node.uid, s.node.obj.GetResourceVersion(), a.policy
	pre := &metav1.Preconditions{UID: &uid, ResourceVersion: &rv}
	if a.unblock {
		pre.ResourceVersion = nil // our own patch has just changed it
	}
	_, err := c.env.Client.Do(ctx, &client.Request{
		Verb: client.Delete, Resource: s.node.resource, Namespace: s.node.namespace, Name: s.node.obj.GetName(),
		Options: client.Options{PropagationPolicy: &policy, Preconditions: pre},
	})
	return err
}

// orphan releases the dependents, then lets the object go.
func (c *Controller) orphan(ctx context.Context, s *situation) error {
	err := controllers.Each(len(s.dependents), func(i int) error {
		d := &s.dependents[i].node
		err := c.patch(ctx, d, map[string]any{"ownerReferences": withoutOwner(d.owners(), s.node.uid)})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing dependents: %w", err)
	}
	return c.patch(ctx, &s.node, map[string]any{"finalizers": without(s.node.obj.GetFinalizers(), metav1.FinalizerOrphanDependents)})
}

// patch merges metadata into the object in the very version that the graph
// has; another version is a conflict, and the loop tries again.
func (c *Controller) patch(ctx context.Context, n *node, meta map[string]any) error {
	meta["uid"], meta["resourceVersion"] = n.uid, n.obj.GetResourceVersion()
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	_, err = c.env.Client.Do(ctx, &client.Request{
		Verb: client.Patch, Resource: n.resource, Namespace: n.namespace, Name: n.obj.GetName(),
		PatchType: types.MergePatchType, Patch: data,
	})
	return err
}
