package client

import (
	"context"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Informers holds one informer per kind for a component (or for several that
// share an identity for reading). Ask for all informers and add handlers
// first, then Start. It is safe for concurrent use.
type Informers struct {
	c Interface

	mu      sync.Mutex
	byGVR   map[informerKey]cache.SharedIndexInformer
	started map[informerKey]context.CancelFunc
}

type informerKey struct {
	gvr       schema.GroupVersionResource
	namespace string
	field     string
	label     string
}

// NewInformers returns an empty set that reads through c.
func NewInformers(c Interface) *Informers {
	return &Informers{c: c, byGVR: map[informerKey]cache.SharedIndexInformer{}, started: map[informerKey]context.CancelFunc{}}
}

// Scope narrows an informer; the zero value is the whole cluster.
type Scope struct {
	Namespace string
	Field     fields.Selector
	Label     labels.Selector
}

// Informer is a synced, indexed copy (by pointer) of one kind.
type Informer[T Object] struct {
	cache.SharedIndexInformer
}

// InformerFor returns the set's informer for a kind, making it at first use.
// Objects that it hands out are shared and read only.
func InformerFor[T Object](i *Informers, k Kind[T]) Informer[T] {
	return ScopedInformerFor(i, k, Scope{})
}

// ScopedInformerFor is InformerFor narrowed to a scope (such as the pods of
// one node); each scope has its own informer.
func ScopedInformerFor[T Object](i *Informers, k Kind[T], scope Scope) Informer[T] {
	key := informerKey{gvr: k.GroupVersionResource, namespace: scope.Namespace}
	if scope.Field != nil {
		key.field = scope.Field.String()
	}
	if scope.Label != nil {
		key.label = scope.Label.String()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	inf, ok := i.byGVR[key]
	if !ok {
		// No example object: an informer is shared by kind and by metadata, and
		// the door hands out the right type by itself.
		inf = cache.NewSharedIndexInformer(ListWatch(i.c, k, scope), nil, 0,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		i.byGVR[key] = inf
	}
	return Informer[T]{inf}
}

// Any returns the informer of a whole resource of any kind, the one that
// InformerFor returns for a kind of that resource. It is for components that
// handle objects by their metadata.
func (i *Informers) Any(gvr schema.GroupVersionResource) cache.SharedIndexInformer {
	return InformerFor(i, Kind[Object]{GroupVersionResource: gvr}).SharedIndexInformer
}

// Drop ends and forgets the informer of a resource that is served no longer.
func (i *Informers) Drop(gvr schema.GroupVersionResource) {
	i.mu.Lock()
	defer i.mu.Unlock()
	key := informerKey{gvr: gvr}
	if cancel := i.started[key]; cancel != nil {
		cancel()
	}
	delete(i.started, key)
	delete(i.byGVR, key)
}

// Start runs every informer that does not run yet until ctx ends.
func (i *Informers) Start(ctx context.Context) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k, inf := range i.byGVR {
		if i.started[k] == nil {
			ctx, cancel := context.WithCancel(ctx)
			i.started[k] = cancel
			go inf.RunWithContext(ctx)
		}
	}
}

// WaitForSync waits until every started informer holds its first list and
// its handlers have seen it. It returns false when ctx ended before.
func (i *Informers) WaitForSync(ctx context.Context) bool {
	i.mu.Lock()
	var synced []cache.DoneChecker
	for k, inf := range i.byGVR {
		if i.started[k] != nil {
			synced = append(synced, inf.HasSyncedChecker())
		}
	}
	i.mu.Unlock()
	// Woken by channels: client-go's WaitForCacheSync would look every 100 ms
	// and delay the start of every component by as much.
	return cache.WaitFor(ctx, "", synced...)
}

// WaitForSync waits until all checkers are done (an informer's
// HasSyncedChecker, a registration's of a handler); false when ctx ended
// before.
func WaitForSync(ctx context.Context, synced ...cache.DoneChecker) bool {
	return cache.WaitFor(ctx, "", synced...)
}

// AddIndex files the informer's objects under what f returns for them. An
// index of that name that is there already stays, so that several components
// can ask for the same one; the same name must mean the same function.
func (i Informer[T]) AddIndex(name string, f func(T) []string) error {
	if _, ok := i.GetIndexer().GetIndexers()[name]; ok {
		return nil
	}
	return i.AddIndexers(cache.Indexers{name: func(o any) ([]string, error) { return f(o.(T)), nil }})
}

// CaughtUp reports whether the informer's store holds everything that was
// written on behalf of key: the newest version that the writes returned, and
// no object in a state before its deletion.
func (i Informer[T]) CaughtUp(w *Writes, key string) bool {
	if !w.CaughtUp(key, i.GetStore().LastStoreSyncResourceVersion()) {
		return false
	}
	return w.deletesSeen(key, func(objKey string, uid types.UID) bool {
		o, ok := i.GetKey(objKey)
		return !ok || o.GetUID() != uid || o.GetDeletionTimestamp() != nil
	})
}

// Seen reports whether the store is at least as new as a resourceVersion, which
// may be another kind's.
func (i Informer[T]) Seen(resourceVersion string) bool {
	want, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return false
	}
	have, err := strconv.ParseUint(i.GetStore().LastStoreSyncResourceVersion(), 10, 64)
	return err == nil && have >= want
}

// Get returns the object under namespace ("" when cluster-scoped) and name.
func (i Informer[T]) Get(namespace, name string) (T, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	return i.GetKey(key)
}

// GetKey returns the object under an informer key ("namespace/name").
func (i Informer[T]) GetKey(key string) (T, bool) {
	var zero T
	obj, ok, err := i.GetStore().GetByKey(key)
	if err != nil || !ok {
		return zero, false
	}
	return obj.(T), true
}

// List returns the objects of a namespace ("" for all) that the selector
// (nil for all) matches, in no order.
func (i Informer[T]) List(namespace string, sel labels.Selector) []T {
	var out []T
	add := func(o any) {
		obj := o.(T)
		if sel == nil || sel.Matches(labels.Set(obj.GetLabels())) {
			out = append(out, obj)
		}
	}
	if namespace == "" {
		for _, o := range i.GetStore().List() {
			add(o)
		}
		return out
	}
	objs, err := i.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil
	}
	for _, o := range objs {
		add(o)
	}
	return out
}

// ByIndex returns the objects that an added index files under value.
func (i Informer[T]) ByIndex(index, value string) []T {
	objs, err := i.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil
	}
	out := make([]T, len(objs))
	for n, o := range objs {
		out[n] = o.(T)
	}
	return out
}

// OnChange calls f with the new and the old object: old is the zero T for an
// addition, obj for a deletion. f must not block nor change either.
func (i Informer[T]) OnChange(f func(obj, old T)) (cache.ResourceEventHandlerRegistration, error) {
	var zero T
	return i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { f(o.(T), zero) },
		UpdateFunc: func(old, o any) { f(o.(T), old.(T)) },
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			if old, ok := o.(T); ok {
				f(zero, old)
			}
		},
	})
}

// ListWatch adapts a door to client-go's reflector, WatchList included. How
// long a watch lasts is left to the server (half an hour to an hour): the five
// to ten minutes that reflectors ask for have every watch end, by itself, and
// begin anew where nothing else happens. A connection that is dead is found out
// by the connection's own signs of life.
func ListWatch[T Object](c Interface, k Kind[T], scope Scope) cache.ListerWatcher {
	options := func(o metav1.ListOptions) Options {
		return Options{
			ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
			Limit: o.Limit, Continue: o.Continue,
			AllowWatchBookmarks: o.AllowWatchBookmarks, SendInitialEvents: o.SendInitialEvents,
			LabelSelector: scope.Label, FieldSelector: scope.Field,
		}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			res, err := c.Do(ctx, &Request{Verb: List, Resource: k.GroupVersionResource, Namespace: scope.Namespace, Options: options(o)})
			if err != nil {
				return nil, err
			}
			return newPointerList(res.List), nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, &Request{Verb: Watch, Resource: k.GroupVersionResource, Namespace: scope.Namespace, Options: options(o)})
		},
	}
}

// newPointerList dresses a result as the internal list type that client-go's
// reflector can walk without copying the objects.
func newPointerList(l *ListResult) runtime.Object {
	out := &metav1.List{}
	out.ResourceVersion, out.Continue, out.RemainingItemCount = l.ResourceVersion, l.Continue, l.RemainingItemCount
	out.Items = make([]runtime.RawExtension, len(l.Items))
	for i, o := range l.Items {
		out.Items[i].Object = o
	}
	return out
}
