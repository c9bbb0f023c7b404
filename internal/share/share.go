// Package share saves memory that equal objects take: an object comes in with
// one that is probably much like it, and goes out made of that one's parts
// wherever they are equal.
package share

import (
	"maps"
	"reflect"
	"sync"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// With makes obj, a pointer to a struct, use the strings, slices, maps and
// pointers of like where they are deeply equal to its own. Both must be of one
// type, else nothing is done. obj must be the caller's alone; like is only
// read. Neither may be changed afterwards. It is safe for concurrent use. What
// obj shares with others already must be parts of like, or FieldsV1.
//
// The pods of one ReplicaSet, and an object before and after a change of its
// status, have most of what they consist of in common.
func With(obj, like any) {
	v, w := reflect.ValueOf(obj), reflect.ValueOf(like)
	if v.Kind() != reflect.Pointer || v.Type() != w.Type() || v.IsNil() || w.IsNil() || v.Pointer() == w.Pointer() {
		return
	}
	programFor(v.Type().Elem()).unite(v.UnsafePointer(), w.UnsafePointer())
}

// program is what there is to compare in a type, field by field. Every write of
// an object goes through it, so it works on memory: reflection would take five
// times as long.
type program struct {
	fields []field
}

type field struct {
	offset uintptr
	kind   kind
	of     reflect.Type
	size   uintptr  // of the field, for a slice of an element
	elem   *program // of a pointer or a slice
}

type kind int

const (
	plain   kind = iota // memory without pointers
	text                // a string
	bytes               // a slice without pointers
	slice               // another slice
	pointer             // to something
	labels              // a map of strings
	amounts             // a map of quantities
	whole               // a pointer to something that is shared as it is
	opaque              // anything else, compared by reflection and left as it is
	mapping             // another map, compared by reflection
)

// header is a slice.
type header struct {
	data     unsafe.Pointer
	len, cap int
}

// programs are made once for each type: they follow from it alone.
var programs struct {
	sync.RWMutex
	of map[reflect.Type]*program
}

func programFor(t reflect.Type) *program {
	programs.RLock()
	p := programs.of[t]
	programs.RUnlock()
	if p != nil {
		return p
	}
	programs.Lock()
	defer programs.Unlock()
	// A program is seen by others only with all that it refers to.
	made := map[reflect.Type]*program{}
	p = make1(t, made)
	if programs.of == nil {
		programs.of = map[reflect.Type]*program{}
	}
	for t, q := range made {
		if programs.of[t] == nil {
			programs.of[t] = q
		}
	}
	return p
}

// make1 makes the program of a type and of those within it.
func make1(t reflect.Type, made map[reflect.Type]*program) *program {
	if p := made[t]; p != nil {
		return p // a type within itself
	}
	p := &program{}
	made[t] = p
	p.add(0, t, made)
	return p
}

func (p *program) add(offset uintptr, t reflect.Type, made map[reflect.Type]*program) {
	f := field{offset: offset, of: t, size: t.Size()}
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		f.kind = plain
	case reflect.String:
		f.kind = text
	case reflect.Slice:
		f.kind, f.size = slice, t.Elem().Size()
		if t.Elem().Kind() == reflect.Uint8 {
			f.kind = bytes
		} else {
			f.elem = make1(t.Elem(), made)
		}
	case reflect.Pointer:
		f.kind, f.elem = pointer, make1(t.Elem(), made)
		if t == reflect.TypeFor[*metav1.FieldsV1]() {
			f.kind = whole // the API server's field management shares it already
		}
	case reflect.Map:
		f.kind = mapping
		switch t {
		case reflect.TypeFor[map[string]string]():
			f.kind = labels
		case reflect.TypeFor[corev1.ResourceList]():
			f.kind = amounts
		}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			f.kind = plain // and if two locations of one name are two, no harm is done
			break
		}
		for i := range t.NumField() {
			if !t.Field(i).IsExported() {
				f.kind = opaque
			}
		}
		if f.kind == opaque {
			break
		}
		for i := range t.NumField() {
			p.add(offset+t.Field(i).Offset, t.Field(i).Type, made)
		}
		return
	default:
		f.kind = opaque
	}
	p.fields = append(p.fields, f)
}

// unite makes what a points at use the parts of what b points at, and says
// whether the two are equal.
func (p *program) unite(a, b unsafe.Pointer) bool {
	equal := true
	for i := range p.fields {
		f := &p.fields[i]
		if !f.unite(unsafe.Add(a, f.offset), unsafe.Add(b, f.offset)) {
			equal = false
		}
	}
	return equal
}

func (f *field) unite(x, y unsafe.Pointer) bool {
	switch f.kind {
	case plain:
		return same(x, y, f.size)
	case text:
		s, t := (*string)(x), (*string)(y)
		if *s != *t {
			return false
		}
		*s = *t
		return true
	case bytes, slice:
		s, t := (*header)(x), (*header)(y)
		switch {
		case s.data == nil || t.data == nil:
			return s.data == t.data
		case f.kind == bytes && (s.len != t.len || !same(s.data, t.data, uintptr(s.len))):
			return false
		case f.kind == slice && !f.elements(s, t):
			return false
		}
		*s = *t
		return true
	case pointer:
		s, t := (*unsafe.Pointer)(x), (*unsafe.Pointer)(y)
		switch {
		case *s == *t:
			return true
		case *s == nil || *t == nil || !f.elem.unite(*s, *t):
			return false
		}
		*s = *t
		return true
	}
	return f.rest(x, y)
}

// elements unites the elements that two slices have at the same places, and
// says whether the slices are equal.
func (f *field) elements(s, t *header) bool {
	equal := s.len == t.len
	if s.data == t.data {
		return equal
	}
	for i := range min(s.len, t.len) {
		at := uintptr(i) * f.size
		if !f.elem.unite(unsafe.Add(s.data, at), unsafe.Add(t.data, at)) {
			equal = false
		}
	}
	return equal
}

func (f *field) rest(x, y unsafe.Pointer) bool {
	if f.kind == opaque {
		return reflect.DeepEqual(reflect.NewAt(f.of, x).Interface(), reflect.NewAt(f.of, y).Interface())
	}
	s, t := (*unsafe.Pointer)(x), (*unsafe.Pointer)(y) // a map is a pointer
	if *s == nil || *t == nil || *s == *t {
		return *s == *t
	}
	equal := false
	switch f.kind {
	case whole:
		v, w := (*metav1.FieldsV1)(*s).Raw, (*metav1.FieldsV1)(*t).Raw
		equal = (v == nil) == (w == nil) && string(v) == string(w)
	case labels:
		equal = maps.Equal(*(*map[string]string)(x), *(*map[string]string)(y))
	case amounts:
		equal = maps.Equal(*(*corev1.ResourceList)(x), *(*corev1.ResourceList)(y))
	case mapping:
		equal = reflect.DeepEqual(reflect.NewAt(f.of, x).Interface(), reflect.NewAt(f.of, y).Interface())
	}
	if equal {
		*s = *t
	}
	return equal
}

// same compares memory.
func same(x, y unsafe.Pointer, size uintptr) bool {
	switch size {
	case 1:
		return *(*uint8)(x) == *(*uint8)(y)
	case 4:
		return *(*uint32)(x) == *(*uint32)(y)
	case 8:
		return *(*uint64)(x) == *(*uint64)(y)
	}
	return unsafe.String((*byte)(x), size) == unsafe.String((*byte)(y), size)
}
