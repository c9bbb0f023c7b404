package apiserver

import (
	"encoding/json"
	"math"
	"reflect"
	"time"

	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// settle makes a checked object what its stored bytes will say: protobuf does
// not tell empty lists and maps from absent ones, and brings times and
// quantities back in one form. Without it whoever wrote an object would be
// answered something else than who reads it back from etcd, perhaps through
// another server, and field management, which looks at the form of what is in
// atomic lists, would take it for changed.
func (k *kind) settle(obj runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok && k.custom {
		settleNumbers(u.Object)
		return
	}
	if k.StoredJSON || k.Prefix == "" {
		return
	}
	clear := k.empties()
	if clear == nil || !clear(reflect.ValueOf(obj).Elem()) {
		return
	}
	if k.Strategy.Default != nil { // as it is when the object is read back
		k.Strategy.Default(obj)
	}
}

// settleNumbers makes numbers what their text is read as: 2.0 is written as 2,
// which is an integer. It writes only where it changes something, so that what
// settled objects share stays as it is.
func settleNumbers(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			if n, ok := integral(e); ok {
				v[name] = n
			} else {
				settleNumbers(e)
			}
		}
	case []any:
		for i, e := range v {
			if n, ok := integral(e); ok {
				v[i] = n
			} else {
				settleNumbers(e)
			}
		}
	}
}

// integral says whether a number's text has neither a point nor an exponent.
func integral(v any) (int64, bool) {
	f, ok := v.(float64)
	return int64(f), ok && f == math.Trunc(f) && math.Abs(f) < 1<<63
}

// clearing sets empty lists and maps in an addressable value to nil and says
// whether there was one; times and quantities get their stored form. nil means
// that the type has none of all that.
type clearing func(v reflect.Value) bool

// clearingOf makes the clearing of a type. Types that write their own JSON
// (raw extensions, for one) are leaves; so are the values of maps, which cannot
// be changed in place.
func clearingOf(t reflect.Type, outer map[reflect.Type]bool) clearing {
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return func(v reflect.Value) bool { return localize(&v.Addr().Interface().(*metav1.Time).Time) }
	case reflect.TypeFor[metav1.MicroTime]():
		return func(v reflect.Value) bool { return localize(&v.Addr().Interface().(*metav1.MicroTime).Time) }
	case reflect.TypeFor[quantity.Quantity]():
		return func(v reflect.Value) bool { return canonicalize(v.Addr().Interface().(*quantity.Quantity)) }
	}
	if outer[t] || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		if t.Elem() == reflect.TypeFor[metav1.Time]() { // of metadata, which versions of an object share
			return func(v reflect.Value) bool {
				if at, _ := v.Interface().(*metav1.Time); at != nil {
					own := *at
					if localize(&own.Time); own != *at {
						v.Set(reflect.ValueOf(&own))
					}
				}
				return false
			}
		}
		inner := clearingOf(t.Elem(), outer)
		if inner == nil {
			return nil
		}
		return func(v reflect.Value) bool { return !v.IsNil() && inner(v.Elem()) }
	case reflect.Map:
		return func(v reflect.Value) bool { return empty(v) }
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 { // bytes that are there and empty stay so
			return nil
		}
		inner := clearingOf(t.Elem(), outer)
		return func(v reflect.Value) bool {
			if inner == nil || v.Len() == 0 {
				return empty(v)
			}
			some := false
			for i := range v.Len() {
				some = inner(v.Index(i)) || some
			}
			return some
		}
	case reflect.Struct:
		return clearingOfFields(t, outer)
	}
	return nil
}

func clearingOfFields(t reflect.Type, outer map[reflect.Type]bool) clearing {
	type part struct {
		index int
		clear clearing
	}
	outer[t] = true // what holds itself is looked into once
	defer delete(outer, t)
	var parts []part
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		if c := clearingOf(t.Field(i).Type, outer); c != nil {
			parts = append(parts, part{i, c})
		}
	}
	if parts == nil {
		return nil
	}
	return func(v reflect.Value) bool {
		some := false
		for _, p := range parts {
			some = p.clear(v.Field(p.index)) || some
		}
		return some
	}
}

func empty(v reflect.Value) bool {
	if v.IsNil() || v.Len() > 0 {
		return false
	}
	v.SetZero()
	return true
}

// localize gives a time the zone that decoded ones have, and takes its reading
// of the monotonic clock away. It leaves nothing to default: false. What has
// its form already is not written to: it may be shared with the object before.
func localize(t *time.Time) bool {
	if !t.IsZero() {
		if local := t.Round(0).Local(); local != *t {
			*t = local
		}
	}
	return false
}

// canonicalize makes a quantity what its text is read as.
func canonicalize(q *quantity.Quantity) bool {
	is := *q // which keeps its text
	if want, err := quantity.ParseQuantity(is.String()); err == nil {
		if text := want; text.String() != "" && !reflect.DeepEqual(text, is) {
			*q = want
		}
	}
	return false
}
