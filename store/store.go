// Package store keeps objects in etcd, laid out byte for byte as upstream
// lays them out, and serves them from a watch cache that holds one immutable
// entry per object and revision.
//
// The contract, which storetest holds against every implementation:
//
//  1. Revisions are etcd's. Every write gets a greater one; a reader that has
//     seen revision N never sees older state from a consistent read.
//  2. A write is a compare-and-swap on the key's mod revision; nothing is
//     acknowledged that etcd has not committed to disk.
//  3. Entries and their objects are shared and read only. An object that is
//     put in is transferred.
//  4. A watcher sees every change after its start revision once, in revision
//     order, or is told 410 Expired; it never misses one silently.
package store

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Interface stores the objects of one kind. Keys are relative to the kind's
// prefix: "namespace/name", or "name" for a cluster-scoped kind. Errors are
// *apierrors.StatusError (NotFound, AlreadyExists, Conflict, Expired, Timeout,
// TooManyRequests, InternalError) with the kind's resource and the object's name.
// It is safe for concurrent use.
type Interface interface {
	// Get returns the object under key: the newest committed one when
	// resourceVersion is "", any that is at hand when it is "0", else one at
	// least as new.
	Get(ctx context.Context, key, resourceVersion string) (*Entry, error)

	// List returns what lies under prefix ("" for all, "namespace/" for one
	// namespace), in key order.
	List(ctx context.Context, prefix string, opts ListOptions) (*List, error)

	// Create stores obj, which must carry no resourceVersion, under a key
	// that must be absent. obj is transferred and comes back in the entry
	// with its resourceVersion set.
	Create(ctx context.Context, key string, obj runtime.Object) (*Entry, error)

	// Update runs change on the current entry and stores what it returns. It
	// starts over with the newer entry when another write came first; a
	// first try may be made on a cached entry, but an error that change
	// returns is final only if the entry was the newest. cur is nil when the
	// key is absent and allowAbsent is set (else NotFound). An unchanged
	// result (equal stored bytes) is not written and returns cur. Returning
	// a nil object with a nil error deletes the key, which the entry
	// returned then shows in its last state, at the revision of its deletion.
	Update(ctx context.Context, key string, allowAbsent bool, change func(cur *Entry) (runtime.Object, error)) (*Entry, error)

	// Delete removes the key if the preconditions hold and check (may be nil)
	// returns nil for the entry removed. The entry returned is the last
	// state, carrying the revision of the deletion.
	Delete(ctx context.Context, key string, pre *Preconditions, check func(cur *Entry) error) (*Entry, error)

	// Watch delivers the changes under prefix, as opts say. That the history
	// after opts.ResourceVersion is gone is told by an Error event, as
	// upstream does, not by the error.
	Watch(ctx context.Context, prefix string, opts WatchOptions) (Watcher, error)

	// Count returns how many objects there are, from what is at hand.
	Count() int

	// Ready waits until reads can be served from the cache.
	Ready(ctx context.Context) error
}

// Preconditions guard a delete.
type Preconditions struct {
	UID             *types.UID
	ResourceVersion *string
}

// Predicate selects objects; nil selectors select everything. Attrs returns
// an object's labels and selectable fields; nil leaves that to the kind's row,
// which lets the watches of a kind share the answer and be found by the
// fields they ask for.
type Predicate struct {
	Label labels.Selector
	Field fields.Selector
	Attrs func(obj runtime.Object) (labels.Set, fields.Set)
}

// Empty says that the predicate selects everything.
func (p *Predicate) Empty() bool {
	return (p.Label == nil || p.Label.Empty()) && (p.Field == nil || p.Field.Empty())
}

// Matches reports whether the predicate selects obj.
func (p *Predicate) Matches(obj runtime.Object) bool {
	if p.Empty() {
		return true
	}
	l, f := p.Attrs(obj)
	return (p.Label == nil || p.Label.Matches(l)) && (p.Field == nil || p.Field.Matches(f))
}

// ListOptions select what is listed and how fresh it must be, in the terms of
// the API documentation ("Resource versions").
type ListOptions struct {
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Predicate            Predicate
	Limit                int64
	Continue             string
}

// List is a consistent list of entries.
type List struct {
	Entries            []*Entry
	Revision           int64
	Continue           string
	RemainingItemCount *int64
}

// WatchOptions say where a watch begins.
type WatchOptions struct {
	// ResourceVersion: "" and "0" begin with synthetic Added events of the
	// current state ("0": of any state at hand); else the changes after it.
	ResourceVersion string
	// SendInitialEvents begins with synthetic Added events that reflect a
	// state at least as new as ResourceVersion, then a bookmark annotated
	// k8s.io/initial-events-end (given Bookmarks).
	SendInitialEvents *bool
	Predicate         Predicate
	// Bookmarks asks for Bookmark events about once a minute and shortly
	// before the watch's deadline.
	Bookmarks bool
}

// EventType is what happened to an object, as a watcher with a predicate sees
// it: an object that stops matching is Deleted, one that begins to is Added.
type EventType int

// The kinds of events.
const (
	Added EventType = iota
	Modified
	Deleted
	// Bookmark carries only Revision, and InitialEventsEnd.
	Bookmark
	// Error ends the watch; Err says why (410 Expired, for one).
	Error
)

// Event is one event of a watch. Entry is shared and read only; for Deleted it is
// the last state that matched with Revision being that of the change. Before is
// the state before a change; nil where there was none.
type Event struct {
	Type             EventType
	Entry            *Entry
	Before           *Entry
	Revision         int64
	InitialEventsEnd bool
	Err              error
}

// Last is the state before a change, under the change's revision: what a watch
// sends of an object that it selects no more.
func (ev *Event) Last() *Entry { return ev.Before.at(ev.Revision) }

// Watcher is an open watch. Events is closed after Stop, after the end of the
// watch's context, or after an Error event.
type Watcher interface {
	Events() <-chan Event
	Stop()
}
