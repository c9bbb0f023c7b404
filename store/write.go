package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/internal/share"
	"github.com/coxswain/cox/internal/tenure"
)

// Create stores obj under an absent key.
func (d *direct) Create(ctx context.Context, key string, obj runtime.Object) (*Entry, error) {
	o, ok := obj.(api.Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("%T has no object metadata", obj))
	}
	if o.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	var like *Entry
	if d.cache != nil {
		like = d.cache.alike(key)
	}
	w, err := d.prepare(ctx, key, obj, like)
	if err != nil {
		return nil, err
	}
	e, _, err := d.commit(ctx, w, nil)
	if err != nil {
		return nil, asStatus(err, d.gr, "create")
	}
	if e == nil {
		return nil, apierrors.NewAlreadyExists(d.gr, nameOf(key))
	}
	return e, nil
}

// current is the state that a write starts from.
type current struct {
	entry *Entry // nil: absent
	// newest: as etcd had it after the write began; what a cache holds may
	// be older, and then no error is to be based on it.
	newest bool
}

// first returns what to try a write on.
func (d *direct) first(ctx context.Context, key string) (current, error) {
	if d.cache != nil {
		if e, ok := d.cache.peek(key); ok {
			return current{e, false}, nil
		}
	}
	return d.refresh(ctx, key, 0)
}

// refresh returns the newest state, at least as of the given revision.
func (d *direct) refresh(ctx context.Context, key string, revision int64) (current, error) {
	if d.cache != nil {
		if e, err := d.cache.newest(ctx, key, revision); err == nil {
			return current{e, true}, nil
		}
	}
	e, _, err := d.read(ctx, key)
	return current{e, true}, err
}

// sure reports whether cur is the newest state; if not, it is replaced by it
// and the write starts over.
func (d *direct) sure(ctx context.Context, key string, cur *current) (bool, error) {
	if cur.newest {
		return true, nil
	}
	now, err := d.refresh(ctx, key, 0)
	if err != nil {
		return false, err
	}
	same := revisionOf(now.entry) == revisionOf(cur.entry)
	if same {
		now.entry = cur.entry
	}
	*cur = now
	return same, nil
}

func revisionOf(e *Entry) int64 {
	if e == nil {
		return 0
	}
	return e.Revision
}

// Update runs change on the current state and stores the result, over and
// over until no other write came between.
func (d *direct) Update(ctx context.Context, key string, allowAbsent bool, change func(cur *Entry) (runtime.Object, error)) (*Entry, error) {
	cur, err := d.first(ctx, key)
	for {
		if err != nil {
			return nil, asStatus(err, d.gr, "update")
		}
		if ctx.Err() != nil {
			return nil, asStatus(ctx.Err(), d.gr, "update")
		}
		var sure bool
		if cur.entry == nil && !allowAbsent {
			if sure, err = d.sure(ctx, key, &cur); sure {
				return nil, d.notFound(key)
			}
			continue
		}
		obj, refused := change(cur.entry)
		if refused != nil {
			if sure, err = d.sure(ctx, key, &cur); sure {
				return nil, refused
			}
			continue
		}
		if obj == nil {
			if cur.entry == nil {
				return nil, d.notFound(key)
			}
			e, at, derr := d.remove(ctx, cur.entry)
			if derr != nil || e != nil {
				return e, asStatus(derr, d.gr, "delete")
			}
			cur, err = d.refresh(ctx, key, at)
			continue
		}
		var w *write
		if cur.entry != nil && obj == cur.entry.Object && !cur.entry.stale {
			w = nil // handed back as it was
		} else {
			if cur.entry != nil && obj == cur.entry.Object {
				obj = obj.DeepCopyObject()
			}
			if w, err = d.prepare(ctx, key, obj, cur.entry); err != nil {
				return nil, err
			}
		}
		if w == nil || (cur.entry != nil && w.sum == cur.entry.sum && !cur.entry.stale) {
			if sure, err = d.sure(ctx, key, &cur); sure {
				var settled bool
				if settled, err = d.settled(ctx, key, &cur); settled {
					return cur.entry, nil
				}
			}
			continue
		}
		e, at, cerr := d.commit(ctx, w, cur.entry)
		if cerr != nil || e != nil {
			return e, asStatus(cerr, d.gr, "update")
		}
		cur, err = d.refresh(ctx, key, at)
	}
}

// settled reports whether etcd holds cur as it would be written now. What is
// cached does not tell that of an encrypted value, since keys change after it
// was read. If not, cur is replaced by what etcd holds and the write starts
// over.
func (d *direct) settled(ctx context.Context, key string, cur *current) (bool, error) {
	if d.tf == nil {
		return true, nil
	}
	e, _, err := d.read(ctx, key)
	if err != nil {
		return false, err
	}
	if e != nil && !e.stale && e.Revision == cur.entry.Revision {
		return true, nil
	}
	*cur = current{e, true}
	return false, nil
}

// Delete removes the key if what guards it holds.
func (d *direct) Delete(ctx context.Context, key string, pre *Preconditions, check func(cur *Entry) error) (*Entry, error) {
	cur, err := d.first(ctx, key)
	for {
		if err != nil {
			return nil, asStatus(err, d.gr, "delete")
		}
		if ctx.Err() != nil {
			return nil, asStatus(ctx.Err(), d.gr, "delete")
		}
		refused := d.mayDelete(key, cur.entry, pre, check)
		if refused != nil {
			var sure bool
			if sure, err = d.sure(ctx, key, &cur); sure {
				return nil, refused
			}
			continue
		}
		e, at, derr := d.remove(ctx, cur.entry)
		if derr != nil || e != nil {
			return e, asStatus(derr, d.gr, "delete")
		}
		cur, err = d.refresh(ctx, key, at)
	}
}

func (d *direct) mayDelete(key string, cur *Entry, pre *Preconditions, check func(*Entry) error) error {
	if cur == nil {
		return d.notFound(key)
	}
	if pre != nil {
		o := cur.Object.(api.Object)
		if pre.UID != nil && *pre.UID != o.GetUID() {
			return precondition(d.gr, d.root+key, fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *pre.UID, o.GetUID()))
		}
		if pre.ResourceVersion != nil && *pre.ResourceVersion != o.GetResourceVersion() {
			return precondition(d.gr, d.root+key, fmt.Sprintf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *pre.ResourceVersion, o.GetResourceVersion()))
		}
	}
	if check != nil {
		return check(cur)
	}
	return nil
}

// large is from how many encoded bytes on it pays to look what an object has in
// common with another.
const large = 1 << 10

// prepare encodes obj, which is ours from here on, and has it share memory with
// the object of like, which may be nil.
func (d *direct) prepare(ctx context.Context, key string, obj runtime.Object, like *Entry) (*write, error) {
	plain, err := d.codec.encode(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("encode %s: %w", d.root+key, err))
	}
	if like != nil && len(plain) >= large {
		share.With(obj, like.Object)
	}
	w := &write{key: key, obj: obj, plain: plain, stored: plain, sum: d.codec.sum(plain), bound: d.s.encodings}
	if d.tf != nil {
		if w.stored, err = d.tf.ToStorage(ctx, plain, d.root+key); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("encrypt %s: %w", d.root+key, err))
		}
	}
	return w, nil
}

// commit writes w if cur (nil: nothing) still is what etcd holds. It returns nil
// when it is not, with the revision at which etcd saw that.
func (d *direct) commit(ctx context.Context, w *write, cur *Entry) (*Entry, int64, error) {
	var lease clientv3.LeaseID
	if d.kind.TTL > 0 {
		var err error
		if lease, err = d.s.leases.get(ctx, d.kind.TTL); err != nil {
			return nil, 0, err
		}
	}
	if err := tenure.Check(ctx); err != nil { // the process may have been stopped since the request began
		return nil, 0, err
	}
	if d.cache != nil {
		d.cache.expect(w)
	}
	op, begin := opUpdate, time.Now()
	if cur == nil {
		op = opCreate
	}
	fence := d.s.fence(ctx)
	var at int64
	var done bool
	var err error
	if changesHands(cur, w.obj) {
		at, done, err = d.s.handOver(ctx, d.root+w.key, revisionOf(cur), w, fence)
	} else {
		at, done, err = swap(ctx, d.s.cfg.Backend, d.root+w.key, revisionOf(cur), w.stored, lease, fence.holds()...)
	}
	if err == nil && !done {
		err = fence.check(ctx)
	}
	d.took.since(op, begin, err)
	if err != nil || !done {
		if d.cache != nil {
			d.cache.unexpect(w)
		}
		return nil, at, err
	}
	e := w.resolve(at)
	if d.cache != nil {
		d.cache.settled(w, e.Revision)
	}
	return e, e.Revision, nil
}

// remove deletes cur if it is still what etcd holds; see commit.
func (d *direct) remove(ctx context.Context, cur *Entry) (*Entry, int64, error) {
	if err := tenure.Check(ctx); err != nil {
		return nil, 0, err
	}
	full := d.root + cur.Key
	fence := d.s.fence(ctx)
	begin := time.Now()
	resp, err := d.s.cfg.Backend.Txn(ctx).
		If(append(fence.holds(), clientv3.Compare(clientv3.ModRevision(full), "=", cur.Revision))...).
		Then(clientv3.OpDelete(full)).
		Commit()
	d.took.since(opDelete, begin, err)
	if err != nil {
		return nil, 0, err
	}
	if !resp.Succeeded {
		return nil, resp.Header.Revision, fence.check(ctx)
	}
	return cur.at(resp.Header.Revision), resp.Header.Revision, nil
}
