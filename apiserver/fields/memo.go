package fields

import (
	"cmp"
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

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
	key, n, ok := m.key(live, obj, before, manager)
	if !ok {
		return nil, false
	}
	owners, found := m.get(key)
	if !found {
		if !m.sound(key[:n], before, compute) {
			return nil, false
		}
		owners = trace(before, func(e []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry { return compute(e, false) })
		m.put(string(key), owners)
	}
	if len(owners) == 0 {
		return nil, true
	}
	after = make([]metav1.ManagedFieldsEntry, len(owners))
	for i, o := range owners {
		after[i] = o.ManagedFieldsEntry
		if o.from < 0 {
			after[i].Time = &now
		} else {
			after[i].Time = before[o.from].Time
		}
	}
	slices.SortStableFunc(after, order)
	return after, true
}

// sound reports whether entries stay as they are when nothing changes. Those
// of an older schema are adapted to what is in the object, which the
// description of a change does not say.
func (m *Memo) sound(key []byte, before []metav1.ManagedFieldsEntry, compute Compute) bool {
	if len(before) == 0 {
		return true
	}
	key = append(slices.Clone(key), "sound"...)
	verdict, found := m.get(key)
	if !found {
		after := compute(before, true)
		if !slices.EqualFunc(before, after, func(a, b metav1.ManagedFieldsEntry) bool {
			return b.FieldsV1 != nil && string(a.FieldsV1.Raw) == string(b.FieldsV1.Raw) && order(a, b) == 0
		}) {
			verdict = []owner{{}}
		}
		m.put(string(key), verdict)
	}
	return len(verdict) == 0
}

// trace runs compute on entries whose times tell where they come from.
func trace(before []metav1.ManagedFieldsEntry, compute func([]metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry) []owner {
	marked := slices.Clone(before)
	for i := range marked {
		t := metav1.NewTime(time.Unix(int64(i)+1, 0))
		marked[i].Time = &t
	}
	var out []owner
	for _, e := range compute(marked) {
		o := owner{ManagedFieldsEntry: e, from: -1}
		if e.Time != nil {
			if i := e.Time.Unix() - 1; i >= 0 && i < int64(len(before)) {
				o.from = int(i)
			}
		}
		o.Time = nil
		out = append(out, o)
	}
	return out
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

// key describes the change and all else that the owners depend on; its first n
// bytes are about the entries before.
func (m *Memo) key(live, obj runtime.Object, before []metav1.ManagedFieldsEntry, manager string) (key []byte, n int, ok bool) {
	old, is := reflect.ValueOf(live), reflect.ValueOf(obj)
	if len(before) >= capped || old.Type() != is.Type() || old.Kind() != reflect.Pointer {
		return nil, 0, false
	}
	key = make([]byte, 0, 1024)
	add := func(s string) {
		key = binary.AppendUvarint(key, uint64(len(s)))
		key = append(key, s...)
	}
	key = append(key, byte(len(before)))
	for i := range before {
		e := &before[i]
		if e.APIVersion != m.version || e.FieldsV1 == nil || e.FieldsType != "FieldsV1" || e.Time == nil {
			return nil, 0, false // of another version, or not ours
		}
		add(e.Manager)
		add(string(e.Operation))
		add(e.Subresource)
		add(string(e.FieldsV1.Raw))
	}
	n = len(key)
	add(manager)
	if live.(metav1.Object).GetUID() == "" { // a new object
		key = append(key, 1)
	} else {
		key = append(key, 0)
	}
	key, _, ok = shape.Append(key, old.Elem(), is.Elem())
	return key, n, ok
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
