package apiserver

import (
	"encoding/json"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
)

// settle makes a checked object what its stored bytes will say: protobuf does
// not tell empty lists and maps from absent ones. Without it whoever wrote an
// object would be answered something else than who reads it back from etcd,
// perhaps through another server.
func (k *kind) settle(obj runtime.Object) {
	if k.custom || k.StoredJSON || k.Prefix == "" {
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

// clearing sets empty lists and maps in an addressable value to nil and says
// whether there was one. nil means that the type has none.
type clearing func(v reflect.Value) bool

// clearingOf makes the clearing of a type. Types that write their own JSON
// (quantities, times, raw extensions) are leaves; so are the values of maps,
// which cannot be changed in place.
func clearingOf(t reflect.Type, outer map[reflect.Type]bool) clearing {
	if outer[t] || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
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
