package fields

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/coxswain/cox/apiserver/fields/shape"
)

// Memo remembers who owns which fields after a change. That follows from who
// owned which before, who makes the change, and which fields change, whatever
// their values; the same few changes are made to thousands of objects, and to
// compute their owners anew is most of what a write costs. One Memo serves one
// view of one kind through one subresource. It is safe for concurrent use.
type Memo struct {
	version string // of the view
	max     int    // bytes of either generation

	mu   sync.Mutex
	size int
	// young and old are two generations: what is not asked for while one
	// fills up is forgotten.
	young, old map[string][]owner
}

// owner is an entry of managedFields. Its time is that of one of the entries
// before the change, or that of the change.
type owner struct {
	metav1.ManagedFieldsEntry
	from int // index of the earlier entry, -1 for the change
}

// NewMemo makes a memo for a view's version that keeps about max bytes.
func NewMemo(version string, max int) *Memo {
	return &Memo{version: version, max: max / 2, young: map[string][]owner{}}
}

// capped is from how many entries on their times decide which of them are
// merged, which no description of the change says.
const capped = 10

// Compute does what a Memo remembers: it returns the entries of an object on
// which manager has made the change from live to obj, where live carried the
// entries before; with same set, that to no change at all.
type Compute func(before []metav1.ManagedFieldsEntry, same bool) []metav1.ManagedFieldsEntry

// Update returns the managedFields of obj, with the entries before, after
// manager has made obj of live (an empty object for a new one) at the time now.
// Unless an equal change has been made before it asks compute. ok is false for
// changes that cannot be remembered. live and obj, of one type, are only read;
// the entries that are returned share memory and are read only.
func (m *Memo) Update(live, obj runtime.Object, before []metav1.ManagedFieldsEntry, manager string, now metav1.Time, compute Compute) (after []metav1.ManagedFieldsEntry, ok bool) {
	key, ok := m.start(before, manager)
	if !ok || !m.sound(live, before, compute) {
		return nil, false
	}
	if live.(metav1.Object).GetUID() == "" {
		key = append(key, byNew)
	} else {
		key = append(key, byUpdate)
	}
	if key, ok = describe(key, live, obj); !ok {
		return nil, false
	}
	owners, found := m.get(key)
	if !found {
		owners, _ = trace(before, func(e []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool) {
			return compute(e, false), true
		})
		m.put(string(key), owners)
	}
	return stamp(owners, before, now), true
}

// describe appends what changes from live to obj.
func describe(key []byte, live, obj runtime.Object) (out []byte, ok bool) {
	if was, custom := live.(*unstructured.Unstructured); custom {
		is, custom := obj.(*unstructured.Unstructured)
		if !custom {
			return key, false
		}
		out, _, ok = shape.Object(key, was.Object, is.Object)
		return out, ok
	}
	old, is := reflect.ValueOf(live), reflect.ValueOf(obj)
	if old.Type() != is.Type() || old.Kind() != reflect.Pointer {
		return key, false
	}
	out, _, ok = shape.Append(key, old.Elem(), is.Elem())
	return out, ok
}

// Apply is Update for a server-side apply: change describes what the
// configuration does to the object, and apply works the result out, or says
// that the description is not all that the result depends on. live is the
// object before, compute what Update would ask.
func (m *Memo) Apply(live runtime.Object, change []byte, before []metav1.ManagedFieldsEntry, manager string, force bool, now metav1.Time, compute Compute,
	apply func(before []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool)) (after []metav1.ManagedFieldsEntry, ok bool) {
	key, ok := m.start(before, manager)
	if !ok || len(before) == 0 || !m.sound(live, before, compute) {
		return nil, false
	}
	if force {
		key = append(key, byForce)
	} else {
		key = append(key, byApply)
	}
	key = append(key, change...)
	owners, found := m.get(key)
	if !found {
		if owners, ok = trace(before, apply); !ok {
			owners = doubt
		}
		m.put(string(key), owners)
	}
	if len(owners) == 1 && owners[0].from == doubtful {
		return nil, false
	}
	return stamp(owners, before, now), true
}

// Ways in which an object changes.
const (
	byNew = iota
	byUpdate
	byApply
	byForce
)

// doubtful marks what is remembered not to be known.
const doubtful = -2

var doubt = []owner{{from: doubtful}}

// stamp sets the times of entries and puts them in order.
func stamp(owners []owner, before []metav1.ManagedFieldsEntry, now metav1.Time) []metav1.ManagedFieldsEntry {
	if len(owners) == 0 {
		return nil
	}
	after := make([]metav1.ManagedFieldsEntry, len(owners))
	for i, o := range owners {
		after[i] = o.ManagedFieldsEntry
		if o.from < 0 {
			after[i].Time = &now
		} else {
			after[i].Time = before[o.from].Time
		}
	}
	slices.SortStableFunc(after, order)
	return after
}

// sound reports whether entries stay as they are when nothing changes. Those
// of an older schema are adapted to what is in the object, which the
// description of a change does not say.
func (m *Memo) sound(live runtime.Object, before []metav1.ManagedFieldsEntry, compute Compute) bool {
	if len(before) == 0 {
		return true
	}
	key, ok := m.start(before, "")
	if !ok {
		return false
	}
	verdict, found := m.get(key)
	if !found {
		after := compute(before, true)
		if !slices.EqualFunc(before, after, func(a, b metav1.ManagedFieldsEntry) bool {
			return b.FieldsV1 != nil && string(a.FieldsV1.Raw) == string(b.FieldsV1.Raw) && order(a, b) == 0
		}) {
			verdict = doubt
		}
		m.put(string(key), verdict)
	}
	return len(verdict) == 0
}

// trace runs compute on entries whose times tell where they come from.
func trace(before []metav1.ManagedFieldsEntry, compute func([]metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool)) ([]owner, bool) {
	marked := slices.Clone(before)
	for i := range marked {
		t := metav1.NewTime(time.Unix(int64(i)+1, 0))
		marked[i].Time = &t
	}
	after, ok := compute(marked)
	var out []owner
	for _, e := range after {
		o := owner{ManagedFieldsEntry: e, from: -1}
		if e.Time != nil {
			if i := e.Time.Unix() - 1; i >= 0 && i < int64(len(before)) {
				o.from = int(i)
			}
		}
		o.Time = nil
		out = append(out, o)
	}
	return out, ok
}

// Keeps says that no one who has applied fields before has fewer after.
func Keeps(before, after []metav1.ManagedFieldsEntry) bool {
	for i := range before {
		if before[i].Operation != metav1.ManagedFieldsOperationApply {
			continue
		}
		kept := false
		for j := range after {
			a, b := &before[i], &after[j]
			kept = kept || a.Manager == b.Manager && a.Operation == b.Operation && a.Subresource == b.Subresource && within(a, b)
		}
		if !kept {
			return false
		}
	}
	return true
}

// within says that all fields of a are b's.
func within(a, b *metav1.ManagedFieldsEntry) bool {
	var x, y fieldpath.Set
	if x.FromJSON(bytes.NewReader(a.FieldsV1.Raw)) != nil || y.FromJSON(bytes.NewReader(b.FieldsV1.Raw)) != nil {
		return false
	}
	return x.Difference(&y).Empty()
}

// order is that of managedFields: by operation, then by time.
func order(a, b metav1.ManagedFieldsEntry) int {
	return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(unix(a.Time), unix(b.Time)),
		cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource))
}

func unix(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// start begins a key with who makes a change and the entries before it.
func (m *Memo) start(before []metav1.ManagedFieldsEntry, manager string) (key []byte, ok bool) {
	if len(before) >= capped {
		return nil, false
	}
	key = make([]byte, 0, 1024)
	add := func(s string) {
		key = binary.AppendUvarint(key, uint64(len(s)))
		key = append(key, s...)
	}
	add(manager)
	key = append(key, byte(len(before)))
	for i := range before {
		e := &before[i]
		if e.APIVersion != m.version || e.FieldsV1 == nil || e.FieldsType != "FieldsV1" || e.Time == nil {
			return nil, false // of another version, or not ours
		}
		add(e.Manager)
		add(string(e.Operation))
		add(e.Subresource)
		add(string(e.FieldsV1.Raw))
	}
	return key, true
}

// Size is about how many bytes are remembered.
func (m *Memo) Size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

func (m *Memo) get(key []byte) ([]owner, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o, ok := m.young[string(key)]; ok {
		return o, true
	}
	o, ok := m.old[string(key)]
	if ok {
		m.putLocked(string(key), o)
	}
	return o, ok
}

func (m *Memo) put(key string, o []owner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.putLocked(key, o)
}

func (m *Memo) putLocked(key string, o []owner) {
	size := len(key) + 64
	for i := range o {
		size += 160
		if f := o[i].FieldsV1; f != nil {
			size += len(f.Raw)
		}
	}
	if m.size += size; m.size > m.max {
		m.old, m.young, m.size = m.young, map[string][]owner{}, size
	}
	m.young[key] = o
}
