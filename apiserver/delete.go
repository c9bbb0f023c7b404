package apiserver

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/apiserver/admission"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/store"
)

// delete begins, hastens or completes the deletion of one object.
func (c *call) delete(ctx context.Context) (*answer, error) {
	if err := c.checkDeleteOptions(); err != nil {
		return nil, err
	}
	return c.deleteNamed(ctx, c.req.Name)
}

func (c *call) checkDeleteOptions() error {
	o := &c.req.Options
	errs := metavalidation.ValidateDeleteOptions(&metav1.DeleteOptions{
		GracePeriodSeconds: o.GracePeriodSeconds, OrphanDependents: o.OrphanDependents,
		PropagationPolicy: o.PropagationPolicy,
	})
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	if text := c.res.Strategy.OrphanWarning; text != "" && o.PropagationPolicy == nil && o.OrphanDependents == nil {
		c.warn(text)
	}
	return nil
}

func (c *call) deleteNamed(ctx context.Context, name string) (*answer, error) {
	t := &transaction{call: c, ctx: ctx}
	key := c.res.key(c.req.Namespace, name)
	var removed, pending runtime.Object
	try := func(cur *store.Entry) (runtime.Object, error) {
		t.restart()
		removed, pending = nil, nil
		if err := t.checkPreconditions(name, cur.Object); err != nil {
			return nil, err
		}
		a := t.attributes(admission.Delete, nil, cur.Object)
		if a.Name = name; c.collected {
			a.Name = "" // nobody named it
		}
		if err := t.admit(a); err != nil {
			return nil, err
		}
		if err := t.validate(a); err != nil {
			return nil, err
		}
		obj := t.deletion(cur.Object)
		if obj != nil {
			pending = obj
			return obj, nil
		}
		removed = cur.Object
		return nil, t.reserve(nil, cur.Object)
	}
	if c.req.Options.DryRun {
		cur, err := c.res.store.Get(ctx, key, "")
		if err != nil {
			return nil, err
		}
		obj, err := try(cur)
		t.finish(false)
		if err != nil {
			return nil, err
		}
		if obj != nil {
			return &answer{obj: obj, hub: true, pending: true}, nil
		}
		return c.deleted(c.hastened(removed)), nil
	}
	e, err := c.res.store.Update(ctx, key, false, try)
	t.finish(err == nil)
	switch {
	case err != nil:
		return nil, err
	case pending != nil:
		return &answer{entry: e, pending: true}, nil
	}
	return c.deleted(c.hastened(e.Object)), nil
}

// hastened is a removed object as it is shown: one of a kind that is given time
// had none, or none left.
func (c *call) hastened(last runtime.Object) runtime.Object {
	m := accessor(last)
	g, asked := m.GetDeletionGracePeriodSeconds(), c.req.Options.GracePeriodSeconds
	switch {
	case c.res.Strategy.GracePeriod == nil, m.GetDeletionTimestamp() != nil && (g == nil || asked == nil || max(*asked, 0) >= *g):
		return last
	}
	obj := last.DeepCopyObject()
	m = accessor(obj)
	at := c.now()
	switch was := m.GetDeletionTimestamp(); {
	case was != nil:
		at = metav1.NewTime(was.Add(-seconds(*g)))
	case m.GetGeneration() > 0:
		m.SetGeneration(m.GetGeneration() + 1)
	}
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(new(int64))
	return obj
}

// deleted is the answer to a finished deletion.
func (c *call) deleted(last runtime.Object) *answer {
	if c.res.ReturnDeleted {
		return &answer{obj: last, hub: true}
	}
	m := accessor(last)
	return &answer{obj: wire.Success(&metav1.StatusDetails{
		Name: m.GetName(), Group: c.res.gvr.Group, Kind: c.res.gvr.Resource, UID: m.GetUID(),
	})}
}

// checkPreconditions refuses to delete another object than the one asked for.
// The conflict names the kind, where all others name the resource: so does
// upstream's.
func (t *transaction) checkPreconditions(name string, cur runtime.Object) error {
	p := t.req.Options.Preconditions
	if p == nil {
		return nil
	}
	m := accessor(cur)
	if p.UID != nil && *p.UID != m.GetUID() {
		return apierrors.NewConflict(t.kindResource(), name, fmt.Errorf(
			"the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(t.kindResource(), name, fmt.Errorf(
			"the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}

func (t *transaction) kindResource() schema.GroupResource {
	return schema.GroupResource{Group: t.res.Hub.Group, Resource: t.res.Hub.Kind}
}

// deletion decides what a DELETE does to an object: nil removes it now; else
// the object stays as returned (possibly unchanged) until its grace period
// has passed or its last finalizer is gone. old is only read.
func (t *transaction) deletion(old runtime.Object) runtime.Object {
	obj := old.DeepCopyObject()
	m := accessor(obj)
	st := &t.res.Strategy
	m.SetFinalizers(t.propagation(m.GetFinalizers()))
	waits := len(m.GetFinalizers()) > 0
	kept := st.Keep != nil && st.Keep(obj)

	grace := int64(0)
	if st.GracePeriod != nil {
		if g := m.GetDeletionGracePeriodSeconds(); m.GetDeletionTimestamp() != nil && g != nil {
			// Under way already: a second request can only shorten it.
			asked := t.req.Options.GracePeriodSeconds
			if asked == nil || *asked >= *g {
				if *g > 0 || waits || kept {
					return obj
				}
				return nil
			}
			grace = max(*asked, 0)
			t.mark(m, grace, true)
		} else if m.GetDeletionTimestamp() == nil {
			if grace = st.GracePeriod(obj, t.req.Options.GracePeriodSeconds); grace > 0 {
				t.mark(m, grace, false)
			}
		}
	}
	if grace == 0 && !waits && !kept {
		return nil
	}
	if m.GetDeletionTimestamp() == nil {
		generation := m.GetGeneration()
		t.mark(m, 0, false)
		if kept { // it has its own way to go, which is no update either
			m.SetDeletionGracePeriodSeconds(nil)
			m.SetGeneration(generation)
		}
	}
	if st.PrepareDelete != nil {
		st.PrepareDelete(obj)
	}
	return obj
}

// mark sets when the object is to be gone. A shortened period counts from
// when the deletion was asked for.
func (t *transaction) mark(m metav1.Object, grace int64, shorten bool) {
	begun := t.now()
	if shorten {
		begun = metav1.NewTime(m.GetDeletionTimestamp().Add(-seconds(*m.GetDeletionGracePeriodSeconds())))
	} else if g := m.GetGeneration(); g > 0 {
		m.SetGeneration(g + 1)
	}
	at := metav1.NewTime(begun.Add(seconds(grace)))
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(&grace)
}

// propagation returns the finalizers that an object has once the request's
// propagation policy is put into them.
func (t *transaction) propagation(cur []string) []string {
	if t.res.Strategy.NoPropagation {
		return cur
	}
	hasOrphan, hasForeground := contains(cur, metav1.FinalizerOrphanDependents), contains(cur, metav1.FinalizerDeleteDependents)
	o := &t.req.Options
	var orphan, foreground bool
	switch {
	case o.OrphanDependents != nil:
		orphan = *o.OrphanDependents
	case o.PropagationPolicy != nil:
		orphan = *o.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *o.PropagationPolicy == metav1.DeletePropagationForeground
	case hasOrphan || hasForeground:
		return cur
	default:
		orphan = t.res.Strategy.DefaultOrphan
	}
	if orphan == hasOrphan && foreground == hasForeground {
		return cur
	}
	var out []string
	for _, f := range cur {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// collectionWorkers is how many objects of a collection are deleted at once.
const collectionWorkers = 8

// deleteCollection deletes what the request selects and answers with it.
func (c *call) deleteCollection(ctx context.Context) (*answer, error) {
	if err := c.checkSelection(false); err != nil {
		return nil, err
	}
	if err := c.checkDeleteOptions(); err != nil {
		return nil, err
	}
	// As upstream, the collection is that of the very revision, if one is named.
	if o := &c.req.Options; o.ResourceVersion != "" && o.ResourceVersion != "0" && o.ResourceVersionMatch == "" {
		o.ResourceVersionMatch = metav1.ResourceVersionMatchExact
	}
	listed, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	entries := listed.list.Entries
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		next  = make(chan *store.Entry)
	)
	for range min(collectionWorkers, len(entries)) {
		wg.Go(func() {
			for e := range next {
				if err := c.deleteListed(ctx, e); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, e := range entries {
		mu.Lock()
		failed := first != nil
		mu.Unlock()
		if failed || ctx.Err() != nil {
			break
		}
		next <- e
	}
	close(next)
	wg.Wait()
	if first == nil {
		first = ctx.Err()
	}
	if first != nil {
		return nil, first
	}
	return listed, nil
}

// deleteListed deletes one object of a collection; one that is gone or was
// replaced meanwhile is no failure.
func (c *call) deleteListed(ctx context.Context, e *store.Entry) (err error) {
	defer func() {
		if p := recover(); p != nil { // this is not the request's goroutine
			err = c.panicked(p)
		}
	}()
	m := accessor(e.Object)
	one := *c
	req := *c.req
	req.Name, req.Namespace = m.GetName(), m.GetNamespace()
	if req.Options.Preconditions == nil {
		req.Options.Preconditions = &metav1.Preconditions{}
	}
	ours := req.Options.Preconditions.UID == nil && req.Options.Preconditions.ResourceVersion == nil
	if req.Options.Preconditions.UID == nil {
		uid := types.UID(m.GetUID())
		pre := *req.Options.Preconditions
		pre.UID = &uid
		req.Options.Preconditions = &pre
	}
	one.req, one.warnings, one.collected = &req, nil, true
	_, err = one.deleteNamed(ctx, req.Name)
	if apierrors.IsNotFound(err) || (ours && apierrors.IsConflict(err)) {
		return nil
	}
	return err
}
