// Package computed serves kinds that are stored nowhere: a function that
// computes the objects goes in, a read-only store of them comes out.
package computed

import (
	"context"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/store"
)

// Query is what is asked of a Source. A Source may compute more than that, but
// need not.
type Query struct {
	// Key is that of the one object asked for; "" asks for those below Prefix
	// ("" is all, else "namespace/") that the selector, if any, selects.
	Key, Prefix string
	Labels      labels.Selector
}

// Source computes the objects of a kind by key ("name" or "namespace/name"),
// anew at every call; what it returns is given away. It is called by many
// goroutines at once.
type Source func(ctx context.Context, q Query) (map[string]runtime.Object, error)

// Store is a store.Interface over a Source. Writes and watches are answered
// with 405.
type Store struct {
	kind     *api.Kind
	resource schema.GroupResource
	source   Source
}

var _ store.Interface = (*Store)(nil)

// New returns the store of a kind.
func New(kind *api.Kind, source Source) *Store { return &Store{kind, kind.GR(), source} }

// Called makes the store's errors name another resource than the kind's.
func (s *Store) Called(r schema.GroupResource) *Store { return &Store{s.kind, r, s.source} }

// Get computes and returns the object under key.
func (s *Store) Get(ctx context.Context, key, _ string) (*store.Entry, error) {
	all, err := s.source(ctx, Query{Key: key})
	if err != nil {
		return nil, err
	}
	obj, ok := all[key]
	if !ok {
		return nil, apierrors.NewNotFound(s.resource, key[strings.LastIndex(key, "/")+1:])
	}
	return &store.Entry{Key: key, Object: obj}, nil
}

// List computes objects and returns those selected, in key order. It is one
// page, at no revision.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (*store.List, error) {
	all, err := s.source(ctx, Query{Prefix: prefix, Labels: opts.Predicate.Label})
	if err != nil {
		return nil, err
	}
	if opts.Predicate.Attrs == nil {
		opts.Predicate.Attrs = s.attrs
	}
	out := &store.List{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if obj := all[key]; strings.HasPrefix(key, prefix) && opts.Predicate.Matches(obj) {
			out.Entries = append(out.Entries, &store.Entry{Key: key, Object: obj})
		}
	}
	return out, nil
}

// attrs are what selectors see of an object.
func (s *Store) attrs(obj runtime.Object) (labels.Set, fields.Set) {
	set := fields.Set{}
	if s.kind.Fields != nil {
		set = s.kind.Fields(obj)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, set
	}
	set["metadata.name"], set["metadata.namespace"] = m.GetName(), m.GetNamespace()
	return m.GetLabels(), set
}

func (s *Store) refuse(verb string) error { return apierrors.NewMethodNotSupported(s.resource, verb) }

// Create implements store.Interface.
func (s *Store) Create(context.Context, string, runtime.Object) (*store.Entry, error) {
	return nil, s.refuse("create")
}

// Update implements store.Interface.
func (s *Store) Update(context.Context, string, bool, func(*store.Entry) (runtime.Object, error)) (*store.Entry, error) {
	return nil, s.refuse("update")
}

// Delete implements store.Interface.
func (s *Store) Delete(context.Context, string, *store.Preconditions, func(*store.Entry) error) (*store.Entry, error) {
	return nil, s.refuse("delete")
}

// Watch implements store.Interface.
func (s *Store) Watch(context.Context, string, store.WatchOptions) (store.Watcher, error) {
	return nil, s.refuse("watch")
}

// Count implements store.Interface.
func (s *Store) Count() int { return 0 }

// Ready implements store.Interface.
func (s *Store) Ready(context.Context) error { return nil }
