// Package doortest has a door for tests: a small store of objects in memory
// that behaves towards client.Interface as the API server does, without its
// checks.
package doortest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/client"
)

// Door keeps objects by resource and "namespace/name". The zero value is
// empty and ready. It is safe for concurrent use.
type Door struct {
	// Before, where set, runs before each request and can refuse it.
	Before func(req *client.Request) error

	mu       sync.Mutex
	revision int64
	objects  map[schema.GroupResource]map[string]client.Object
	watchers map[*watcher]bool
	history  []change
}

type change struct {
	gr       schema.GroupResource
	revision int64
	obj      client.Object
	ev       watch.EventType
}

type watcher struct {
	gr   schema.GroupResource
	ns   string
	name string
	out  chan watch.Event
	end  context.CancelFunc
	once sync.Once
}

func (w *watcher) ResultChan() <-chan watch.Event { return w.out }
func (w *watcher) Stop()                          { w.end() }

// Put stores an object of a kind as it is, with a new revision and, if it has
// none, a UID, and returns what is stored.
func Put[T client.Object](d *Door, k client.Kind[T], obj T) T {
	d.mu.Lock()
	defer d.mu.Unlock()
	obj = obj.DeepCopyObject().(T)
	d.store(k.GroupResource(), obj, watch.Modified)
	return obj
}

// newest is the revision that a list is of. An empty store has one already,
// older than its first object's: a watch from it must see that object.
func (d *Door) newest() int64 { return max(d.revision, 1) }

func (d *Door) store(gr schema.GroupResource, obj client.Object, ev watch.EventType) {
	if d.objects == nil {
		d.objects = map[schema.GroupResource]map[string]client.Object{}
	}
	if d.objects[gr] == nil {
		d.objects[gr] = map[string]client.Object{}
	}
	key := obj.GetNamespace() + "/" + obj.GetName()
	if _, ok := d.objects[gr][key]; !ok {
		ev = watch.Added
	}
	if obj.GetUID() == "" {
		obj.SetUID(types.UID(uuid.NewUUID()))
	}
	d.revision = d.newest() + 1
	obj.SetResourceVersion(strconv.FormatInt(d.revision, 10))
	d.objects[gr][key] = obj
	d.publish(gr, obj, ev)
}

func (d *Door) publish(gr schema.GroupResource, obj client.Object, ev watch.EventType) {
	c := change{gr, d.revision, obj, ev}
	d.history = append(d.history, c)
	for w := range d.watchers {
		w.send(c)
	}
}

func (w *watcher) send(c change) {
	if w.gr == c.gr && (w.ns == "" || w.ns == c.obj.GetNamespace()) && (w.name == "" || w.name == c.obj.GetName()) {
		w.out <- watch.Event{Type: c.ev, Object: c.obj}
	}
}

func nameOnly(s fields.Selector) string {
	if s == nil {
		return ""
	}
	name, _ := s.RequiresExactMatch("metadata.name")
	return name
}

// Do implements client.Interface.
func (d *Door) Do(_ context.Context, req *client.Request) (*client.Result, error) {
	if d.Before != nil {
		if err := d.Before(req); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	gr := req.Resource.GroupResource()
	key := req.Namespace + "/" + req.Name
	cur, exists := d.objects[gr][key]
	switch req.Verb {
	case client.List:
		l := &client.ListResult{ResourceVersion: strconv.FormatInt(d.newest(), 10)}
		for k, o := range d.objects[gr] {
			name := nameOnly(req.Options.FieldSelector)
			if (req.Namespace == "" || strings.HasPrefix(k, req.Namespace+"/")) && (name == "" || name == o.GetName()) {
				l.Items = append(l.Items, o)
			}
		}
		return &client.Result{List: l}, nil
	case client.Create:
		obj := req.Object.(client.Object)
		obj.SetNamespace(req.Namespace)
		if _, ok := d.objects[gr][req.Namespace+"/"+obj.GetName()]; ok {
			return nil, apierrors.NewAlreadyExists(gr, obj.GetName())
		}
		d.store(gr, obj, watch.Added)
		return &client.Result{Object: obj, Created: true}, nil
	}
	if !exists {
		return nil, apierrors.NewNotFound(gr, req.Name)
	}
	switch req.Verb {
	case client.Get:
		return &client.Result{Object: cur}, nil
	case client.Update:
		obj := req.Object.(client.Object)
		if rv := obj.GetResourceVersion(); rv != "" && rv != cur.GetResourceVersion() {
			return nil, apierrors.NewConflict(gr, req.Name, fmt.Errorf("the object has been modified"))
		}
		obj.SetUID(cur.GetUID())
		d.store(gr, obj, watch.Modified)
		return &client.Result{Object: obj}, nil
	case client.Patch: // merges, or applies, that is, which replaces lists here
		obj := cur.DeepCopyObject().(client.Object)
		if err := json.Unmarshal(req.Patch, obj); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		d.store(gr, obj, watch.Modified)
		return &client.Result{Object: obj}, nil
	case client.Delete:
		delete(d.objects[gr], key)
		d.revision = d.newest() + 1
		gone := cur.DeepCopyObject().(client.Object)
		gone.SetResourceVersion(strconv.FormatInt(d.revision, 10))
		d.publish(gr, gone, watch.Deleted)
		return &client.Result{Object: &metav1.Status{Status: metav1.StatusSuccess}}, nil
	}
	return nil, apierrors.NewMethodNotSupported(gr, string(req.Verb))
}

// Watch implements client.Interface.
func (d *Door) Watch(ctx context.Context, req *client.Request) (watch.Interface, error) {
	if d.Before != nil {
		if err := d.Before(req); err != nil {
			return nil, err
		}
	}
	if req.Options.SendInitialEvents != nil { // informers then list first
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "", nil)
	}
	ctx, end := context.WithCancel(ctx)
	w := &watcher{gr: req.Resource.GroupResource(), ns: req.Namespace, name: nameOnly(req.Options.FieldSelector), end: end, out: make(chan watch.Event, 10000)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if req.Options.ResourceVersion == "" || req.Options.ResourceVersion == "0" {
		for _, o := range d.objects[w.gr] {
			w.send(change{gr: w.gr, obj: o, ev: watch.Added})
		}
	} else {
		since, err := strconv.ParseInt(req.Options.ResourceVersion, 10, 64)
		if err != nil {
			end()
			return nil, apierrors.NewBadRequest("resourceVersion")
		}
		for _, c := range d.history {
			if c.revision > since {
				w.send(c)
			}
		}
	}
	if d.watchers == nil {
		d.watchers = map[*watcher]bool{}
	}
	d.watchers[w] = true
	go func() {
		<-ctx.Done()
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, w)
		w.once.Do(func() { close(w.out) })
	}()
	return w, nil
}

var _ client.Interface = (*Door)(nil)
