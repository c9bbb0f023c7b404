// Package shape describes what changed between two objects without the values:
// which fields came, went and became others. Whose fields they are follows
// from that alone, and objects by the thousand change in the same few ways, so
// that it is worth remembering under the description. In go two values of one
// type, out comes a description that is equal for equal changes.
package shape

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What a description consists of. Every part can be told where it ends by what
// precedes it, so no two changes have the same description.
const (
	end     = 0 // of a struct's or map's changes; field numbers begin at 1
	came    = 'A'
	went    = 'R'
	became  = 'M'
	another = 'T' // another type
)

// Append appends the description of the change from old to new, which must be
// of one type, and reports whether there is one. It says less than everything
// but enough: members of a list are given with their values, since these may be
// what the list is keyed by. ok is false for types that cannot be described.
// Both values are only read.
func Append(dst []byte, old, new reflect.Value) (out []byte, changed, ok bool) {
	d := differ{out: dst}
	defer func() {
		if p := recover(); p != nil {
			if _, mine := p.(unsupported); !mine {
				panic(p)
			}
			out, changed, ok = dst, false, false
		}
	}()
	changed = d.change(old, new)
	return d.out, changed, true
}

type unsupported struct{ reflect.Type }

type differ struct {
	out []byte
	// times are those in lists, which are called by their place here.
	times []string
}

// maxTimes is how many times get a place; further ones are written out.
const maxTimes = 64

// zeroTime begins the text of the zero time, which is shown as null.
const zeroTime = "0001-01-01T00:00:00"

func (d *differ) time(text string) {
	at := slices.Index(d.times, text)
	switch {
	case at >= 0:
	case len(d.times) == maxTimes || strings.HasPrefix(text, zeroTime):
		d.byte(another)
		d.string(text)
		return
	default:
		at = len(d.times)
		d.times = append(d.times, text)
	}
	d.byte(became)
	d.byte(byte(at))
}

func (d *differ) byte(b byte) { d.out = append(d.out, b) }

func (d *differ) string(s string) {
	d.out = binary.AppendUvarint(d.out, uint64(len(s)))
	d.out = append(d.out, s...)
}

// leaf notes that a value without parts is another: only whether it is and
// was the zero value matters, which may be left out of an object.
func (d *differ) leaf(old, new reflect.Value) bool {
	b := byte(became)
	if old.IsZero() {
		b |= 0x80
	}
	if new.IsZero() {
		b |= 0x20
	}
	d.byte(b)
	return true
}

func (d *differ) change(old, new reflect.Value) bool {
	switch old.Kind() {
	case reflect.String:
		return old.String() != new.String() && d.leaf(old, new)
	case reflect.Bool:
		return old.Bool() != new.Bool() && d.leaf(old, new)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return old.Int() != new.Int() && d.leaf(old, new)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return old.Uint() != new.Uint() && d.leaf(old, new)
	case reflect.Float32, reflect.Float64:
		return old.Float() != new.Float() && d.leaf(old, new)
	case reflect.Pointer:
		return d.reference(old, new)
	case reflect.Interface:
		return d.dynamic(old.Elem(), new.Elem())
	case reflect.Struct:
		return d.structure(old, new)
	case reflect.Slice:
		return d.list(old, new)
	case reflect.Map:
		return d.mapping(old, new)
	}
	panic(unsupported{old.Type()})
}

func (d *differ) reference(old, new reflect.Value) bool {
	switch {
	case old.IsNil() && new.IsNil() || old.Pointer() == new.Pointer():
		return false
	case old.IsNil():
		d.byte(came)
		d.inside(reflect.Zero(old.Type().Elem()), new.Elem())
		return true
	case new.IsNil():
		d.byte(went)
		d.inside(old.Elem(), reflect.Zero(old.Type().Elem()))
		return true
	}
	at := len(d.out)
	d.byte(became)
	if !d.change(old.Elem(), new.Elem()) {
		d.out = d.out[:at]
		return false
	}
	return true
}

// inside describes the content of what came or went, which may be nothing.
func (d *differ) inside(old, new reflect.Value) {
	if !d.change(old, new) {
		d.byte(end)
	}
}

// dynamic is change for what an interface holds: invalid values are nil.
func (d *differ) dynamic(old, new reflect.Value) bool {
	switch {
	case !old.IsValid() && !new.IsValid():
		return false
	case !old.IsValid():
		d.byte(came)
		d.byte(byte(new.Kind()))
		d.inside(reflect.Zero(new.Type()), new)
	case !new.IsValid():
		d.byte(went)
		d.byte(byte(old.Kind()))
		d.inside(old, reflect.Zero(old.Type()))
	case old.Type() != new.Type():
		d.byte(another)
		d.content(old)
		d.content(new)
	default:
		at := len(d.out)
		d.byte(became)
		d.byte(byte(old.Kind()))
		if !d.change(old, new) {
			d.out = d.out[:at]
			return false
		}
	}
	return true
}

func (d *differ) structure(old, new reflect.Value) bool {
	p := layoutOf(old.Type())
	if p.same != nil {
		return !p.same(old, new) && d.leaf(old, new)
	}
	changed := false
	for _, i := range p.fields {
		at := len(d.out)
		d.out = binary.AppendUvarint(d.out, uint64(i)+1)
		if d.change(old.Field(i), new.Field(i)) {
			changed = true
		} else {
			d.out = d.out[:at]
		}
	}
	if changed {
		d.byte(end)
	}
	return changed
}

// list describes a list that is another by all that it was and is.
func (d *differ) list(old, new reflect.Value) bool {
	if old.Len() == new.Len() && old.IsNil() == new.IsNil() && (old.Len() == 0 || old.Pointer() == new.Pointer()) {
		return false
	}
	if old.Type().Elem().Kind() == reflect.Uint8 {
		return (!bytes.Equal(old.Bytes(), new.Bytes()) || old.IsNil() != new.IsNil()) && d.leaf(old, new)
	}
	at, known := len(d.out), len(d.times)
	d.content(old)
	mid := len(d.out)
	d.content(new)
	if bytes.Equal(d.out[at:mid], d.out[mid:]) {
		d.out, d.times = d.out[:at], d.times[:known]
		return false
	}
	return true
}

func (d *differ) mapping(old, new reflect.Value) bool {
	at := len(d.out)
	emptiness := byte(became)
	if old.Len() == 0 {
		emptiness |= 0x80
	}
	if new.Len() == 0 {
		emptiness |= 0x20
	}
	d.byte(emptiness)
	changed := old.IsNil() != new.IsNil()
	switch {
	case changed && old.IsNil():
		d.byte(came)
	case changed:
		d.byte(went)
	}
	zero := reflect.Zero(old.Type().Elem())
	for _, k := range keys(old, new) {
		was, is := old.MapIndex(k), new.MapIndex(k)
		start := len(d.out)
		d.byte(became)
		d.string(k.String())
		switch {
		case !was.IsValid():
			d.byte(came)
			d.inside(zero, is)
		case !is.IsValid():
			d.byte(went)
			d.inside(was, zero)
		case !d.change(was, is):
			d.out = d.out[:start]
			continue
		}
		changed = true
	}
	if !changed {
		d.out = d.out[:at]
		return false
	}
	d.byte(end)
	return true
}

// keys are those of both maps, sorted, each once.
func keys(old, new reflect.Value) []reflect.Value {
	if old.Type().Key().Kind() != reflect.String {
		panic(unsupported{old.Type()})
	}
	out := new.MapKeys()
	for _, k := range old.MapKeys() {
		if !new.MapIndex(k).IsValid() {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// content describes a value whole.
func (d *differ) content(v reflect.Value) {
	if !v.IsValid() {
		d.byte(end)
		return
	}
	switch v.Kind() {
	case reflect.String:
		d.byte(byte(reflect.String))
		d.string(v.String())
	case reflect.Bool:
		d.byte(byte(reflect.Bool))
		if v.Bool() {
			d.byte(1)
		} else {
			d.byte(0)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.byte(byte(reflect.Int))
		d.out = binary.AppendVarint(d.out, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.byte(byte(reflect.Uint))
		d.out = binary.AppendUvarint(d.out, v.Uint())
	case reflect.Float32, reflect.Float64:
		d.byte(byte(reflect.Float64))
		d.out = binary.BigEndian.AppendUint64(d.out, math.Float64bits(v.Float()))
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			d.byte(end)
			return
		}
		d.byte(came)
		d.content(v.Elem())
	case reflect.Struct:
		d.fields(v)
	case reflect.Slice:
		d.items(v)
	case reflect.Map:
		d.byte(byte(reflect.Map))
		if v.IsNil() {
			d.byte(went)
		}
		ks := keys(v, reflect.Zero(v.Type()))
		d.out = binary.AppendUvarint(d.out, uint64(len(ks)))
		for _, k := range ks {
			d.string(k.String())
			d.content(v.MapIndex(k))
		}
	default:
		panic(unsupported{v.Type()})
	}
}

func (d *differ) fields(v reflect.Value) {
	p := layoutOf(v.Type())
	if p.same != nil {
		d.byte(byte(reflect.Struct))
		if p.moment {
			d.time(p.text(v))
		} else {
			d.string(p.text(v))
		}
		return
	}
	for _, i := range p.fields {
		if f := v.Field(i); !f.IsZero() {
			d.out = binary.AppendUvarint(d.out, uint64(i)+1)
			d.content(f)
		}
	}
	d.byte(end)
}

func (d *differ) items(v reflect.Value) {
	d.byte(byte(reflect.Slice))
	if v.IsNil() {
		d.byte(went)
	}
	d.out = binary.AppendUvarint(d.out, uint64(v.Len()))
	for i := range v.Len() {
		d.content(v.Index(i))
	}
}

// layout is how values of a struct type are compared: field by field, or, for
// one that is shown as a single value, by same; text tells such values apart.
type layout struct {
	fields []int
	same   func(a, b reflect.Value) bool
	text   func(reflect.Value) string
	moment bool // a time
}

var layouts sync.Map // reflect.Type -> *layout, a pure function of the type

func layoutOf(t reflect.Type) *layout {
	if p, ok := layouts.Load(t); ok {
		if p := p.(*layout); p != nil {
			return p
		}
		panic(unsupported{t})
	}
	p := newLayout(t)
	layouts.Store(t, p)
	if p == nil {
		panic(unsupported{t})
	}
	return p
}

// sameQuantity also looks at how the number is held, which as with times makes
// a difference to field management in what is owned as a whole: 1Gi becomes
// 1024Mi.
func sameQuantity(a, b *resource.Quantity) bool {
	x, y := *a, *b // a quantity that is asked for its text keeps it
	return x.String() == y.String() && reflect.DeepEqual(x, y)
}

// newLayout returns nil for a struct that hides fields and is not known.
func newLayout(t reflect.Type) *layout {
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return moment(func(a, b *metav1.Time) bool { return a.Time == b.Time },
			func(v *metav1.Time) string { return v.UTC().Format(time.RFC3339) })
	case reflect.TypeFor[metav1.MicroTime]():
		return moment(func(a, b *metav1.MicroTime) bool { return a.Time == b.Time },
			func(v *metav1.MicroTime) string { return v.UTC().Format(time.RFC3339Nano) })
	case reflect.TypeFor[resource.Quantity]():
		return single(sameQuantity, func(q *resource.Quantity) string { c := *q; return c.String() })
	case reflect.TypeFor[intstr.IntOrString]():
		return single(func(a, b *intstr.IntOrString) bool { return *a == *b },
			func(v *intstr.IntOrString) string { return fmt.Sprint(v.Type, " ", v.String()) })
	}
	p := &layout{}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			return nil
		}
		if f.Type != reflect.TypeFor[[]metav1.ManagedFieldsEntry]() {
			p.fields = append(p.fields, i)
		}
	}
	return p
}

func moment[T any](same func(a, b *T) bool, text func(*T) string) *layout {
	p := single(same, text)
	p.moment = true
	return p
}

func single[T any](same func(a, b *T) bool, text func(*T) string) *layout {
	at := func(v reflect.Value) *T {
		if v.CanAddr() {
			return v.Addr().Interface().(*T)
		}
		c := v.Interface().(T)
		return &c
	}
	return &layout{
		same: func(a, b reflect.Value) bool { return same(at(a), at(b)) },
		text: func(v reflect.Value) string { return text(at(v)) },
	}
}
