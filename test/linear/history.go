// Package linear holds what an API server did against what it promises: a
// recorded history of operations and watch events goes in, the first promise
// that it breaks comes out.
//
// The promises: per object there is one order of writes, that of their
// revisions, in which every operation takes effect at one moment between its
// call and its answer (linearizability); a write that names a version replaces
// exactly that one; and every watcher sees each change after its start once,
// in order, as what it was.
//
// Since answers carry revisions, and what was stored is known in the end, no
// order has to be searched for: it is known, and only has to be possible.
package linear

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Kind is what an operation did.
type Kind int

// The kinds of operations.
const (
	Create Kind = iota
	Update      // of the version Prev
	Patch       // of whatever version there is
	Delete      // of the version Prev
	Read
)

// Outcome is how an operation ended.
type Outcome int

// The outcomes.
const (
	OK       Outcome = iota
	Unknown          // no answer, or one that says nothing
	Conflict         // Update, Delete: another version; Create: there already
	NotFound
)

// Op is one operation on one object.
type Op struct {
	Key        string
	Kind       Kind
	Outcome    Outcome
	Value      string // written or read; each write's is its own
	Prev       int64  // the version that Update and Delete name
	Revision   int64  // of what was written (not known of a Delete) or read
	Start, End time.Duration
}

// EventType is what a watcher is told.
type EventType string

// The types of events.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

// Event is one change as a watcher saw it. Value is the object's, for Deleted
// its last one.
type Event struct {
	Type     EventType
	Key      string
	Value    string
	Revision int64
}

// Stream is what one watcher saw of all objects, over any number of
// connections: everything after Start up to the last event.
type Stream struct {
	Start  int64
	Events []Event
}

// History is what happened. Log is what was stored, in order: every change, also
// those that neither an answer nor a watcher told of, since the server was
// killed.
type History struct {
	Log     []Event
	Ops     []Op
	Streams []Stream
}

// version is one state of an object from a revision on.
type version struct {
	revision int64
	value    string
	deleted  bool
	// When it was written: at the earliest and at the latest.
	from, to time.Duration
}

const never = time.Duration(math.MaxInt64)

// Check returns the first promise that the history breaks, or nil.
func (h *History) Check() error {
	objects, err := h.versions()
	if err != nil {
		return err
	}
	for i, s := range h.Streams {
		if err := s.check(h.Log); err != nil {
			return fmt.Errorf("watcher %d: %w", i, err)
		}
	}
	byKey := map[string][]Op{}
	for _, op := range h.Ops {
		byKey[op.Key] = append(byKey[op.Key], op)
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		if err := checkObject(objects[key], byKey[key]); err != nil {
			return fmt.Errorf("object %s: %w", key, err)
		}
	}
	return nil
}

// versions are every object's states, in order. Each answer must have told of
// one of them.
func (h *History) versions() (map[string][]version, error) {
	out := map[string][]version{}
	stored := map[int64]Event{}
	last := int64(0)
	for _, e := range h.Log {
		if e.Revision <= last {
			return nil, fmt.Errorf("the log has revision %d after %d", e.Revision, last)
		}
		last = e.Revision
		stored[e.Revision] = e
		v := version{revision: e.Revision, value: e.Value}
		if e.Type == Deleted {
			v.deleted, v.value = true, ""
		}
		out[e.Key] = append(out[e.Key], v)
	}
	for _, op := range h.Ops {
		if op.Outcome != OK || op.Kind == Delete {
			continue
		}
		if e := stored[op.Revision]; e.Type == Deleted || e.Key != op.Key || e.Value != op.Value {
			return nil, fmt.Errorf("an answer tells of what was not stored: %+v, at revision %d there is %+v", op, op.Revision, e)
		}
	}
	return out, nil
}

// check holds what a watcher saw against what there was to be seen.
func (s *Stream) check(log []Event) error {
	from, _ := slices.BinarySearchFunc(log, s.Start+1, func(e Event, rev int64) int { return cmp.Compare(e.Revision, rev) })
	rest, last := log[from:], s.Start
	for _, e := range s.Events {
		switch {
		case e.Revision <= last:
			return fmt.Errorf("event %s %s at revision %d comes after one at %d", e.Type, e.Key, e.Revision, last)
		case len(rest) == 0 || e.Revision < rest[0].Revision:
			return fmt.Errorf("saw %+v, which was not stored", e)
		case e.Revision > rest[0].Revision:
			return fmt.Errorf("missed %s %s at revision %d", rest[0].Type, rest[0].Key, rest[0].Revision)
		case e != rest[0]:
			return fmt.Errorf("saw %+v, want %+v", e, rest[0])
		}
		rest, last = rest[1:], e.Revision
	}
	return nil
}

// checkObject sees whether the object's operations can have happened in the
// order of its versions.
func checkObject(versions []version, ops []Op) error {
	index := map[int64]int{}
	byValue := map[string]int{}
	for i := range versions {
		index[versions[i].revision] = i
		if !versions[i].deleted {
			byValue[versions[i].value] = i
		}
		versions[i].from, versions[i].to = 0, never
	}
	reads := make([][]Op, len(versions))
	written := map[int]bool{}
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Outcome) - int(b.Outcome) }) // what is known first
	for _, op := range ops {
		i, ok := -1, false
		switch {
		case op.Kind == Read:
			if op.Outcome == OK {
				reads[index[op.Revision]] = append(reads[index[op.Revision]], op)
			}
			continue
		case op.Outcome == Conflict || op.Outcome == NotFound:
			if j, done := byValue[op.Value]; done && op.Kind != Delete {
				return fmt.Errorf("a refused write took effect at revision %d: %+v", versions[j].revision, op)
			}
			continue
		case op.Kind == Delete:
			if j, known := index[op.Prev]; known && j+1 < len(versions) && versions[j+1].deleted {
				i, ok = j+1, true
			}
			if !ok && op.Outcome == OK {
				return fmt.Errorf("an acknowledged delete had no effect: %+v", op)
			}
		default:
			i, ok = byValue[op.Value]
		}
		if !ok {
			continue // of an unknown outcome, without effect
		}
		if op.Outcome == Unknown && op.Kind == Delete && written[i] {
			// Another one's; or, if that one's outcome is not known either, of
			// whichever came first.
			if versions[i].to == never {
				versions[i].from = min(versions[i].from, op.Start)
			}
			continue
		}
		if written[i] {
			return fmt.Errorf("two writes made revision %d: %+v", versions[i].revision, op)
		}
		written[i] = true
		if err := follows(versions, i, &op); err != nil {
			return err
		}
		versions[i].from = op.Start
		if op.Outcome == OK {
			versions[i].to = op.End
		}
	}
	for i := range versions {
		if !written[i] {
			return fmt.Errorf("revision %d is nobody's: %q (deleted: %t)", versions[i].revision, versions[i].value, versions[i].deleted)
		}
	}
	if err := order(versions, reads); err != nil {
		return err
	}
	return refusals(versions, ops)
}

// follows sees whether a write replaced what it said it did.
func follows(versions []version, i int, op *Op) error {
	exists := i > 0 && !versions[i-1].deleted
	switch op.Kind {
	case Create:
		if exists {
			return fmt.Errorf("created at revision %d while it existed: %+v", versions[i].revision, *op)
		}
	case Patch:
		if !exists {
			return fmt.Errorf("patched at revision %d while it did not exist: %+v", versions[i].revision, *op)
		}
	default:
		if !exists || versions[i-1].revision != op.Prev {
			return fmt.Errorf("a write of version %d replaced another: %+v", op.Prev, *op)
		}
	}
	return nil
}

// order gives every write the earliest moment it can have, in the order of
// revisions, and fails where one is after its answer, or a read cannot lie
// between its version and the next. It leaves in from and to the earliest and
// latest moments.
func order(versions []version, reads [][]Op) error {
	now := time.Duration(0)
	for i := range versions {
		v := &versions[i]
		now = max(now, v.from)
		if now > v.to {
			return fmt.Errorf("revision %d was answered before %v, but what came before it was seen only after", v.revision, now)
		}
		v.from = now
		for _, r := range reads[i] { // in any order among each other
			if r.End < v.from {
				return fmt.Errorf("read revision %d before it was written: %+v", v.revision, r)
			}
			now = max(now, r.Start)
		}
	}
	replaced := never
	for i := len(versions) - 1; i >= 0; i-- {
		v := &versions[i]
		latest := min(v.to, replaced)
		for _, r := range reads[i] {
			if r.Start > replaced {
				return fmt.Errorf("read revision %d after it was replaced: %+v", v.revision, r)
			}
			latest = min(latest, r.End)
		}
		v.to, replaced = latest, latest
	}
	return nil
}

// refusals sees whether there was a moment for every refusal at which the
// object was in a state to refuse it for.
func refusals(versions []version, ops []Op) error {
	for _, op := range ops {
		var fits func(exists bool, v *version) bool
		switch {
		case op.Outcome == NotFound:
			fits = func(exists bool, _ *version) bool { return !exists }
		case op.Outcome == Conflict && op.Kind == Create:
			fits = func(exists bool, _ *version) bool { return exists }
		case op.Outcome == Conflict:
			fits = func(exists bool, v *version) bool { return exists && v.revision != op.Prev || !exists }
		default:
			continue
		}
		possible := fits(false, nil) && (len(versions) == 0 || op.Start <= versions[0].to)
		for i := range versions {
			end := never
			if i+1 < len(versions) {
				end = versions[i+1].to
			}
			if fits(!versions[i].deleted, &versions[i]) && versions[i].from <= op.End && op.Start <= end {
				possible = true
			}
		}
		if !possible {
			return fmt.Errorf("refused without a reason at any moment: %+v", op)
		}
	}
	return nil
}
