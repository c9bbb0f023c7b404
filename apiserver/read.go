package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/store"
)

func (c *call) get(ctx context.Context) (*answer, error) {
	e, err := c.res.store.Get(ctx, c.res.key(c.req.Namespace, c.req.Name), c.req.Options.ResourceVersion)
	if err != nil {
		return nil, err
	}
	return &answer{entry: e}, nil
}

// prefix is the part of the keys that a list or watch covers.
func (c *call) prefix() string {
	if c.res.Namespaced && c.req.Namespace != "" {
		return c.req.Namespace + "/"
	}
	return ""
}

func (c *call) list(ctx context.Context) (*answer, error) {
	if err := c.checkSelection(false); err != nil {
		return nil, err
	}
	o := &c.req.Options
	if c.res.selectsShown(o) {
		return c.listShown(ctx)
	}
	l, err := c.res.store.List(ctx, c.prefix(), store.ListOptions{
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Predicate: c.res.predicate(o), Limit: o.Limit, Continue: o.Continue,
	})
	if err != nil {
		return nil, err
	}
	return &answer{list: l}, nil
}

// checkSelection refuses options that do not go together, and fields that
// nothing can be selected by. A watch that begins with the present state is made
// one that says where that state ends.
func (c *call) checkSelection(watch bool) error {
	o := &c.req.Options
	if watch || o.ResourceVersionMatch != "" || o.SendInitialEvents != nil {
		in := &internalversion.ListOptions{
			Watch: watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
			Continue: o.Continue, SendInitialEvents: o.SendInitialEvents, AllowWatchBookmarks: o.AllowWatchBookmarks,
		}
		internalversion.SetListOptionsDefaults(in, true)
		if errs := listvalidation.ValidateListOptions(in, true); len(errs) > 0 {
			return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
		}
		o.ResourceVersionMatch, o.SendInitialEvents = in.ResourceVersionMatch, in.SendInitialEvents
	}
	if err := c.res.checkFields(o.FieldSelector); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

// openWatch opens the store's watch that a request asks for.
func (c *call) openWatch(ctx context.Context) (store.Watcher, error) {
	if c.res.store == nil || c.sub != nil {
		return nil, apierrors.NewMethodNotSupported(c.res.gvr.GroupResource(), string(c.req.Verb))
	}
	if err := c.checkSelection(true); err != nil {
		return nil, err
	}
	o := &c.req.Options
	if c.res.selectsShown(o) {
		return c.watchShown(ctx)
	}
	return c.res.store.Watch(ctx, c.prefix(), store.WatchOptions{
		ResourceVersion: o.ResourceVersion, SendInitialEvents: o.SendInitialEvents,
		Predicate: c.res.predicate(o), Bookmarks: o.AllowWatchBookmarks,
	})
}

// bookmark is the object of a bookmark event, in the view's type.
func (r *resource) bookmark(ev store.Event) runtime.Object {
	obj := r.view.New()
	m := accessor(obj)
	m.SetResourceVersion(fmt.Sprint(ev.Revision))
	if ev.InitialEventsEnd {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

// objectSub answers subresources that are the object under another strategy.
func (c *call) objectSub(ctx context.Context) (*answer, error) {
	if c.req.Verb == "get" {
		return c.get(ctx)
	}
	return c.update(ctx, c.sub.Object)
}
