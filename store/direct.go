package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
)

// direct stores one kind in etcd and reads it from there. With a cache beside
// it, its writes begin with what the cache holds and leave their objects for
// the cache to publish.
type direct struct {
	s     *Store
	kind  *api.Kind
	gr    schema.GroupResource
	codec *codec
	tf    Transformer // nil: none
	root  string      // the kind's prefix in etcd, with a slash at its end
	cache *cache      // nil: none
	took  stopwatch
}

func newDirect(s *Store, k *api.Kind) *direct {
	return &direct{
		s: s, kind: k, gr: k.GR(), codec: newCodec(k, s.cfg.Table, s.seed),
		tf: s.transformer(k.GR()), root: s.root + k.Prefix + "/",
		took: stopwatch{of: s.cfg.Durations, gr: k.GR()},
	}
}

func (d *direct) notFound(key string) error { return apierrors.NewNotFound(d.gr, nameOf(key)) }

// attrs are what selectors see of an object.
func (d *direct) attrs(obj runtime.Object) (labels.Set, fields.Set) {
	o, ok := obj.(api.Object)
	if !ok {
		return nil, nil
	}
	var set fields.Set
	if d.kind.Fields != nil {
		set = d.kind.Fields(obj)
	}
	if set == nil {
		set = make(fields.Set, 2)
	}
	set["metadata.name"] = o.GetName()
	if d.kind.Namespaced {
		set["metadata.namespace"] = o.GetNamespace()
	}
	return o.GetLabels(), set
}

func labelsOnly(obj runtime.Object) (labels.Set, fields.Set) {
	if o, ok := obj.(api.Object); ok {
		return o.GetLabels(), nil
	}
	return nil, nil
}

// entry decodes a stored value.
func (d *direct) entry(ctx context.Context, kv *mvccpb.KeyValue) (*Entry, error) {
	return d.decode(ctx, string(kv.Key), kv.Value, kv.ModRevision)
}

// lockedError is that of a value whose key is not at hand.
type lockedError struct{ error }

func (e *lockedError) Unwrap() error { return e.error }

func (d *direct) decode(ctx context.Context, fullKey string, value []byte, revision int64) (*Entry, error) {
	stale := false
	if d.tf != nil {
		var err error
		if value, stale, err = d.tf.FromStorage(ctx, value, fullKey); err != nil {
			return nil, &lockedError{fmt.Errorf("decrypt %s: %w", fullKey, err)}
		}
	}
	obj, err := d.codec.decode(value, revision)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", fullKey, err)
	}
	return &Entry{
		Key: strings.TrimPrefix(fullKey, d.root), Object: obj, Revision: revision,
		sum: d.codec.sum(value), size: int32(len(value)), stale: stale,
		encodings: encodings{bound: d.s.encodings},
	}, nil
}

// Get reads from etcd; what etcd holds is always the newest.
func (d *direct) Get(ctx context.Context, key, resourceVersion string) (*Entry, error) {
	least, err := parseRevision(resourceVersion)
	if err != nil {
		return nil, err
	}
	e, at, err := d.read(ctx, key)
	if err != nil {
		return nil, err
	}
	if at < least {
		return nil, tooLarge(least, at)
	}
	if e == nil {
		return nil, d.notFound(key)
	}
	return e, nil
}

// read returns the newest entry, nil when there is none, and etcd's revision.
func (d *direct) read(ctx context.Context, key string) (*Entry, int64, error) {
	begin := time.Now()
	resp, err := d.s.cfg.Backend.Get(ctx, d.root+key)
	d.took.since(opGet, begin, err)
	if err != nil {
		return nil, 0, asStatus(err, d.gr, "get")
	}
	if len(resp.Kvs) == 0 {
		return nil, resp.Header.Revision, nil
	}
	e, err := d.entry(ctx, resp.Kvs[0])
	return e, resp.Header.Revision, asStatus(err, d.gr, "get")
}

// pageSize bounds what one read takes from etcd when more must be looked at
// than is asked for.
const pageSize = 1000

// List reads from etcd, in pages of one revision.
func (d *direct) List(ctx context.Context, prefix string, opts ListOptions) (*List, error) {
	plan, err := planList(opts)
	if err != nil {
		return nil, err
	}
	pred := d.predicate(opts.Predicate)
	var (
		out   = &List{Revision: plan.at}
		rev   = plan.at
		next  = d.root + prefix + plan.start
		end   = clientv3.GetPrefixRangeEnd(d.root + prefix)
		exact = pred.Empty() // then each key read is one listed
		read  int
	)
	defer func() { d.took.listedStored(read, len(out.Entries)) }()
	for {
		size := int64(pageSize)
		if exact && plan.limit > 0 {
			size = min(size, plan.limit-int64(len(out.Entries)))
		}
		begin := time.Now()
		resp, err := d.s.cfg.Backend.Get(ctx, next, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(size))
		d.took.since(opList, begin, err)
		if err != nil {
			return nil, d.listError(err, plan, strings.TrimPrefix(next, d.root+prefix))
		}
		if rev == 0 {
			if rev = resp.Header.Revision; rev < plan.atLeast {
				return nil, tooLarge(plan.atLeast, rev)
			}
			out.Revision = rev
		}
		read += len(resp.Kvs)
		for i, kv := range resp.Kvs {
			e, err := d.entry(ctx, kv)
			if err != nil {
				return nil, asStatus(err, d.gr, "list")
			}
			if !pred.Matches(e.Object) {
				continue
			}
			out.Entries = append(out.Entries, e)
			if left := resp.Count - int64(i) - 1; plan.limit > 0 && int64(len(out.Entries)) == plan.limit {
				return out, finishPage(out, prefix, left, exact)
			}
		}
		if !resp.More {
			return out, nil
		}
		next = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// finishPage sets the token with which a full page goes on, if left keys are
// left.
func finishPage(out *List, prefix string, left int64, exact bool) error {
	if left == 0 {
		return nil
	}
	last := out.Entries[len(out.Entries)-1].Key
	var err error
	out.Continue, err = encodeContinue(strings.TrimPrefix(last, prefix)+"\x00", out.Revision)
	if exact {
		out.RemainingItemCount = &left
	}
	return err
}

func (d *direct) listError(err error, plan listPlan, start string) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted) && plan.paging:
		return continueExpired(start)
	case errors.Is(err, rpctypes.ErrFutureRev):
		now, _ := d.s.cfg.Backend.Revision(context.Background())
		return tooLarge(plan.at, now)
	}
	return asStatus(err, d.gr, "list")
}

// predicate fills in what selectors see when the caller leaves it to the
// kind.
func (d *direct) predicate(p Predicate) Predicate {
	if p.Attrs == nil {
		p.Attrs = d.attrs
		if p.Field == nil || p.Field.Empty() {
			p.Attrs = labelsOnly
		}
	}
	return p
}

// Count asks etcd.
func (d *direct) Count() int {
	ctx, cancel := context.WithTimeout(d.s.ctx, 3*time.Second)
	defer cancel()
	resp, err := d.s.cfg.Backend.Get(ctx, d.root, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0
	}
	return int(resp.Count)
}

// Ready is at once.
func (d *direct) Ready(context.Context) error { return nil }
