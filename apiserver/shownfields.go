package apiserver

import (
	"context"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// Some fields can be told of an object in the requested version only: those of
// custom resources that a webhook converts. They are selected by after the
// conversion, here and not in the store, because a webhook takes its time.

// selectsShown says whether a request selects by such a field.
func (r *resource) selectsShown(o *client.Options) bool {
	if r.view.Fields == nil || o.FieldSelector == nil {
		return false
	}
	for _, req := range o.FieldSelector.Requirements() {
		if req.Field != "metadata.name" && req.Field != "metadata.namespace" {
			return true
		}
	}
	return false
}

// shows says whether an object of the view has the fields that are asked for.
func (r *resource) shows(sel fields.Selector, shown runtime.Object) bool {
	set, m := r.view.Fields(shown), accessor(shown)
	set["metadata.name"], set["metadata.namespace"] = m.GetName(), m.GetNamespace()
	return sel.Matches(set)
}

// listShown lists what matches after conversion. With a limit, a page may hold
// less than it, as the API allows.
func (c *call) listShown(ctx context.Context) (*answer, error) {
	o := &c.req.Options
	l, err := c.res.store.List(ctx, c.prefix(), store.ListOptions{
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Predicate: store.Predicate{Label: o.LabelSelector}, Limit: o.Limit, Continue: o.Continue,
	})
	if err != nil {
		return nil, err
	}
	shown, err := c.res.rowObjects(l.Entries)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out := &store.List{Revision: l.Revision, Continue: l.Continue}
	for i, e := range l.Entries {
		if c.res.shows(o.FieldSelector, shown[i]) {
			out.Entries = append(out.Entries, e)
		}
	}
	return &answer{list: out}, nil
}

// watchShown watches what matches after conversion.
func (c *call) watchShown(ctx context.Context) (store.Watcher, error) {
	o := &c.req.Options
	in, err := c.res.store.Watch(ctx, c.prefix(), store.WatchOptions{
		ResourceVersion: o.ResourceVersion, SendInitialEvents: o.SendInitialEvents,
		Predicate: store.Predicate{Label: o.LabelSelector}, Bookmarks: o.AllowWatchBookmarks,
	})
	if err != nil {
		return nil, err
	}
	w := &shownWatch{in: in, res: c.res, sel: o.FieldSelector, out: make(chan store.Event), stop: make(chan struct{})}
	go w.run()
	return w, nil
}

// shownWatch passes on the events of those objects that match after
// conversion.
type shownWatch struct {
	in   store.Watcher
	res  *resource
	sel  fields.Selector
	out  chan store.Event
	stop chan struct{}
	once sync.Once
}

func (w *shownWatch) Events() <-chan store.Event { return w.out }

func (w *shownWatch) Stop() {
	w.once.Do(func() { close(w.stop) })
	w.in.Stop()
}

func (w *shownWatch) run() {
	defer close(w.out)
	defer w.in.Stop()
	for ev := range w.in.Events() {
		next, pass, err := w.event(ev)
		if err != nil {
			next, pass = store.Event{Type: store.Error, Err: apierrors.NewInternalError(err)}, true
		}
		if !pass {
			continue
		}
		select {
		case w.out <- next:
		case <-w.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// event is what a change means to the watch; pass is false when nothing.
func (w *shownWatch) event(ev store.Event) (out store.Event, pass bool, err error) {
	if ev.Type == store.Error || ev.Type == store.Bookmark || ev.Entry == nil {
		return ev, true, nil
	}
	is, err := w.matches(ev.Entry)
	if err != nil {
		return ev, false, err
	}
	was := is
	if ev.Type == store.Modified {
		if was, err = w.matches(ev.Before); err != nil {
			return ev, false, err
		}
	}
	switch {
	case is && !was:
		ev.Type = store.Added
	case was && !is:
		// The state that matched last, as the store has it for the labels.
		ev.Type, ev.Entry = store.Deleted, ev.Last()
	}
	return ev, is || was, nil
}

func (w *shownWatch) matches(e *store.Entry) (bool, error) {
	if e == nil {
		return false, nil
	}
	shown, err := w.res.fromHub(e.Object)
	if err != nil {
		return false, err
	}
	return w.res.shows(w.sel, shown), nil
}
