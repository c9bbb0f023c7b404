package apiserver

import (
	"context"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// door is the local door.
type door struct{ s *Server }

// Do carries out a request. See client.Interface.
func (d *door) Do(ctx context.Context, req *client.Request) (*client.Result, error) {
	if d.s.isElsewhere(req) {
		return d.s.relay(req.User).Do(ctx, req)
	}
	c, err := d.s.newCall(req)
	if err != nil {
		return nil, d.s.refuseUnknown(ctx, req, nil, defaultManager(req.User.Name))
	}
	ans, err := c.serve(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	return c.result(ans)
}

// apiError makes sure that components see an API status whatever went wrong.
func apiError(err error) error {
	if _, ok := err.(interface{ Status() metav1Status }); ok {
		return err
	}
	return statusErrorOf(wire.Status(err))
}

// result shows an answer to a component.
func (c *call) result(a *answer) (*client.Result, error) {
	res := &client.Result{Created: a.created, Pending: a.pending, Warnings: c.warnings}
	var err error
	switch {
	case a.entry != nil:
		res.Object, err = c.res.fromHub(a.entry.Object)
	case a.list != nil || a.items != nil:
		res.List, err = c.listResult(a)
	case a.hub:
		res.Object, err = c.res.fromHub(a.obj)
	default:
		res.Object = a.obj
	}
	return res, err
}

func (c *call) listResult(a *answer) (*client.ListResult, error) {
	out := &client.ListResult{}
	hubs := a.items
	if a.list != nil {
		out.ResourceVersion = revision(a.list.Revision)
		out.Continue, out.RemainingItemCount = a.list.Continue, a.list.RemainingItemCount
		hubs = make([]runtime.Object, len(a.list.Entries))
		for i, e := range a.list.Entries {
			hubs[i] = e.Object
		}
	}
	if c.res.view.FromHub != nil {
		for i, obj := range hubs {
			var err error
			if hubs[i], err = c.res.fromHub(obj); err != nil {
				return nil, err
			}
		}
	}
	out.Items = hubs
	return out, nil
}

// Watch opens a watch. See client.Interface.
func (d *door) Watch(ctx context.Context, req *client.Request) (watch.Interface, error) {
	req.Verb = client.Watch
	if d.s.isElsewhere(req) {
		return d.s.relay(req.User).Watch(ctx, req)
	}
	c, err := d.s.newCall(req)
	if err != nil {
		return nil, d.s.refuseUnknown(ctx, req, nil, defaultManager(req.User.Name))
	}
	done, err := c.begin(ctx)
	if err != nil {
		done(0, err)
		return nil, apiError(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w, err := c.openWatch(ctx)
	if err != nil {
		cancel()
		done(0, err)
		return nil, apiError(err)
	}
	c.turn.Release()
	c.record.ResponseStarted(http.StatusOK, nil)
	lw := &localWatch{c: c, w: w, out: make(chan watch.Event, 16), cancel: cancel}
	d.s.open.Add(1)
	go func() {
		defer d.s.open.Done()
		lw.run(ctx)
		done(http.StatusOK, nil)
	}()
	return lw, nil
}

// localWatch shows a store's watch as client-go's.
type localWatch struct {
	c      *call
	w      store.Watcher
	out    chan watch.Event
	cancel context.CancelFunc
	once   sync.Once
}

// ResultChan is closed when the watch ends.
func (l *localWatch) ResultChan() <-chan watch.Event { return l.out }

// Stop ends the watch.
func (l *localWatch) Stop() { l.once.Do(l.cancel) }

func (l *localWatch) run(ctx context.Context) {
	defer close(l.out)
	defer l.Stop()
	defer l.w.Stop()
	defer func() {
		if p := recover(); p != nil { // one watch ends, not the process
			_ = l.c.panicked(p)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.c.srv.stop.Done():
			return
		case ev, ok := <-l.w.Events():
			if !ok {
				return
			}
			select {
			case l.out <- l.c.event(ev):
			case <-ctx.Done():
				return
			case <-l.c.srv.stop.Done():
				return
			}
			if ev.Type == store.Error {
				return
			}
		}
	}
}

// event shows one event to a component. Its object is shared.
func (c *call) event(ev store.Event) watch.Event {
	switch ev.Type {
	case store.Bookmark:
		return watch.Event{Type: watch.Bookmark, Object: c.res.bookmark(ev)}
	case store.Error:
		return watch.Event{Type: watch.Error, Object: wire.Status(ev.Err)}
	}
	obj, err := c.res.fromHub(ev.Entry.Object)
	if err != nil {
		return watch.Event{Type: watch.Error, Object: wire.Status(err)}
	}
	return watch.Event{Type: eventTypes[ev.Type], Object: obj}
}

var eventTypes = map[store.EventType]watch.EventType{
	store.Added: watch.Added, store.Modified: watch.Modified, store.Deleted: watch.Deleted,
	store.Bookmark: watch.Bookmark, store.Error: watch.Error,
}
