package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Shown wraps an API value for the text of an error. Clients see structs there
// by the names of their Go fields, nothing left out, because upstream's server
// prints its internal types, which have no JSON tags; metav1's types are its
// internal ones too and keep theirs.
func Shown(v any) any { return shown{v} }

type shown struct{ v any }

// MarshalJSON implements json.Marshaler.
func (s shown) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := writeShown(&b, reflect.ValueOf(s.v))
	return b.Bytes(), err
}

func writeShown(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() {
		b.WriteString("null")
		return nil
	}
	if _, ok := v.Interface().(json.Marshaler); ok {
		return writePlain(b, v)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		if v.CanInterface() && v.Kind() == reflect.Pointer && marshals(v.Elem()) {
			return writePlain(b, v)
		}
		return writeShown(b, v.Elem())
	case reflect.Struct:
		if !strings.HasPrefix(v.Type().PkgPath(), "k8s.io/api/") {
			return writePlain(b, v)
		}
		b.WriteByte('{')
		if err := writeFields(b, v, new(bool)); err != nil {
			return err
		}
		b.WriteByte('}')
		return nil
	case reflect.Slice:
		if v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 {
			return writePlain(b, v)
		}
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeShown(b, v.Index(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case reflect.Map:
		return writeMap(b, v)
	}
	return writePlain(b, v)
}

// marshals says that the pointer to v knows its JSON.
func marshals(v reflect.Value) bool {
	return v.CanAddr() && v.Addr().Type().Implements(reflect.TypeFor[json.Marshaler]())
}

func writeFields(b *bytes.Buffer, v reflect.Value, some *bool) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && strings.HasPrefix(f.Type.PkgPath(), "k8s.io/api/") {
			if err := writeFields(b, v.Field(i), some); err != nil {
				return err
			}
			continue
		}
		if f.Anonymous { // metadata, whose fields stand among the others
			data, err := json.Marshal(v.Field(i).Interface())
			if err != nil {
				return err
			}
			if data = bytes.TrimSuffix(bytes.TrimPrefix(data, []byte("{")), []byte("}")); len(data) > 0 {
				if *some {
					b.WriteByte(',')
				}
				*some = true
				b.Write(data)
			}
			continue
		}
		if *some {
			b.WriteByte(',')
		}
		*some = true
		fmt.Fprintf(b, "%q:", f.Name)
		if err := writeShown(b, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func writeMap(b *bytes.Buffer, v reflect.Value) error {
	if v.IsNil() {
		b.WriteString("null")
		return nil
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
	b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := writePlain(b, k); err != nil {
			return err
		}
		b.WriteByte(':')
		e := reflect.New(v.Type().Elem()).Elem() // addressable, for its methods
		e.Set(v.MapIndex(k))
		if err := writeShown(b, e); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func writePlain(b *bytes.Buffer, v reflect.Value) error {
	value := v.Interface()
	if v.CanAddr() {
		value = v.Addr().Interface()
	}
	data, err := json.Marshal(value)
	b.Write(data)
	return err
}
