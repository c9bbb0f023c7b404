package patch

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
)

// Decode reads a patch that is a JSON object. strict holds what strict field
// validation refuses.
func Decode(patch []byte) (doc map[string]any, strict []error, err error) { return decode(patch) }

// Onto merges a decoded patch into a typed object, which it changes, without
// the detour over a document of maps. ok is false, and obj in an unknown state,
// for whatever needs more: directives, lists that merge other than by a key,
// unknown fields, values of the wrong type. strategic says that lists merge by
// the tags of the type.
func Onto(obj runtime.Object, patch map[string]any, strategic bool) (ok bool) {
	m := merger{strategic: strategic}
	return m.structure(reflect.ValueOf(obj).Elem(), patch)
}

// Apply merges the configuration of a server-side apply into a typed object,
// as far as Onto would, and describes what it found: which fields the
// configuration has, which of them the object had and which became others, and
// what else there is beside them. Two merges of one description differ in
// values alone.
func Apply(obj runtime.Object, conf map[string]any) (description []byte, ok bool) {
	m := merger{applied: true, out: make([]byte, 0, 256)}
	ok = m.structure(reflect.ValueOf(obj).Elem(), conf)
	return m.out, ok
}

type merger struct {
	strategic, applied bool
	out                []byte // the description, when applied
}

func (m *merger) say(b ...byte) {
	if m.applied {
		m.out = append(m.out, b...)
	}
}

func (m *merger) sayString(s string) {
	if m.applied {
		m.out = binary.AppendUvarint(m.out, uint64(len(s)))
		m.out = append(m.out, s...)
	}
}

func (m *merger) structure(to reflect.Value, from map[string]any) bool {
	known := fieldsOf(to.Type())
	if m.applied { // what else there is
		m.say('{')
		m.out = binary.AppendUvarint(m.out, uint64(len(from)))
		for i, f := range known.all {
			if v := to.FieldByIndex(f.index); !v.IsZero() {
				m.out = binary.AppendUvarint(m.out, uint64(i)+1)
			}
		}
		m.say(0)
	}
	for _, name := range m.keys(from) {
		f, ok := known.named[name]
		if !ok {
			if of, is := strings.CutPrefix(name, elementOrder); m.strategic && is && from[of] != nil {
				continue // goes with its list
			}
			return false
		}
		if m.strategic && f.merges {
			if !m.merge(to.FieldByIndex(f.index), f.key, from[name], from[elementOrder+name]) {
				return false
			}
			continue
		}
		m.sayString(name)
		if !m.set(to.FieldByIndex(f.index), from[name]) {
			return false
		}
	}
	return true
}

// keys are a document's, sorted where the order shows.
func (m *merger) keys(doc map[string]any) []string {
	out := make([]string, 0, len(doc))
	for k := range doc {
		out = append(out, k)
	}
	if m.applied {
		slices.Sort(out)
	}
	return out
}

func (m *merger) set(to reflect.Value, val any) bool {
	if val == nil {
		to.SetZero()
		return !m.applied
	}
	if to.CanAddr() {
		if u, ok := to.Addr().Interface().(json.Unmarshaler); ok {
			to.SetZero() // some leave what they find
			return m.single(u, val)
		}
	}
	switch to.Kind() {
	case reflect.Pointer:
		if to.IsNil() {
			m.say('A')
			to.Set(reflect.New(to.Type().Elem()))
		} else {
			m.say('M')
		}
		return m.set(to.Elem(), val)
	case reflect.Struct:
		doc, ok := val.(map[string]any)
		return ok && m.structure(to, doc)
	case reflect.Map:
		doc, ok := val.(map[string]any)
		return ok && m.mapping(to, doc)
	case reflect.Slice:
		return m.list(to, val)
	}
	return m.scalar(to, val)
}

// single sets a value that reads its own JSON.
func (m *merger) single(to json.Unmarshaler, val any) bool {
	switch val.(type) {
	case map[string]any, []any:
		return false
	}
	js, err := json.Marshal(val)
	return err == nil && !m.applied && to.UnmarshalJSON(js) == nil
}

func (m *merger) scalar(to reflect.Value, val any) bool {
	var was any
	if m.applied {
		was = to.Interface()
	}
	zero := to.IsZero()
	ok := false
	switch v := val.(type) {
	case string:
		if ok = to.Kind() == reflect.String; ok {
			to.SetString(v)
		}
	case bool:
		if ok = to.Kind() == reflect.Bool; ok {
			to.SetBool(v)
		}
	case int64:
		if ok = to.CanInt() && !to.OverflowInt(v); ok {
			to.SetInt(v)
		}
	}
	if m.applied {
		m.say(state(zero, to.IsZero(), was == to.Interface()))
	}
	return ok
}

func state(was, is, same bool) byte {
	b := byte('a')
	for i, set := range []bool{was, is, same} {
		if set {
			b += 1 << i
		}
	}
	return b
}

func (m *merger) mapping(to reflect.Value, from map[string]any) bool {
	t := to.Type()
	if t.Key().Kind() != reflect.String || t.Elem().Kind() != reflect.String && (m.applied || !isBytes(t.Elem())) {
		return false
	}
	if m.applied {
		m.say('[', state(to.IsNil(), to.Len() == 0, false))
		m.out = binary.AppendUvarint(m.out, uint64(len(from)))
		present := make([]string, 0, to.Len())
		for _, k := range to.MapKeys() {
			present = append(present, k.String())
		}
		slices.Sort(present)
		m.out = binary.AppendUvarint(m.out, uint64(len(present)))
		for _, k := range present {
			m.sayString(k)
		}
	}
	if to.IsNil() {
		to.Set(reflect.MakeMapWithSize(t, len(from)))
	}
	for _, k := range m.keys(from) {
		if m.strategic && strings.HasPrefix(k, "$") {
			return false
		}
		m.sayString(k)
		key := reflect.ValueOf(k).Convert(t.Key())
		if from[k] == nil && !m.applied {
			to.SetMapIndex(key, reflect.Value{})
			continue
		}
		val := reflect.New(t.Elem()).Elem()
		if was := to.MapIndex(key); was.IsValid() {
			val.Set(was)
		}
		if !m.set(val, from[k]) {
			return false
		}
		to.SetMapIndex(key, val)
	}
	return true
}

func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// list replaces bytes, or a list of strings or of objects.
func (m *merger) list(to reflect.Value, val any) bool {
	if m.applied {
		return false
	}
	switch v := val.(type) {
	case string:
		if !isBytes(to.Type()) {
			return false
		}
		b, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return false
		}
		to.SetBytes(b)
		return true
	case []any:
		if len(v) > math.MaxInt16 {
			return false
		}
		list := reflect.MakeSlice(to.Type(), len(v), len(v))
		if to.Type().Elem().Kind() == reflect.Struct {
			for i := range v {
				if hasNull(v[i]) || !m.set(list.Index(i), v[i]) {
					return false
				}
			}
			to.Set(list)
			return true
		}
		if to.Type().Elem().Kind() != reflect.String {
			return false
		}
		for i := range v {
			s, ok := v[i].(string)
			if !ok {
				return false
			}
			list.Index(i).SetString(s)
		}
		to.Set(list)
		return true
	}
	return false
}

// jsonField is a field of a struct as JSON knows it.
type jsonField struct {
	index  []int
	merges bool   // has a patch strategy of its own
	key    string // by which field of theirs the elements of a list merge, if that is all of the strategy
}

type jsonFields struct {
	named map[string]jsonField
	all   []jsonField
}

var structs sync.Map // reflect.Type -> *jsonFields, a pure function of the type

func fieldsOf(t reflect.Type) *jsonFields {
	if f, ok := structs.Load(t); ok {
		return f.(*jsonFields)
	}
	out := &jsonFields{named: map[string]jsonField{}}
	for _, f := range reflect.VisibleFields(t) {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || name == "" || strings.Contains(opts, "inline") || len(f.Index) > 1 && !inlined(t, f.Index) {
			continue
		}
		strategy := f.Tag.Get("patchStrategy")
		jf := jsonField{index: f.Index, merges: strategy != ""}
		if strategy == "merge" && f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			jf.key = f.Tag.Get("patchMergeKey")
		}
		out.named[name] = jf
		out.all = append(out.all, jf)
	}
	structs.Store(t, out)
	return out
}

// inlined says that what a field lies in has no name of its own in JSON.
func inlined(t reflect.Type, index []int) bool {
	for n := 1; n < len(index); n++ {
		f := t.FieldByIndex(index[:n])
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" || f.Type.Kind() != reflect.Struct {
			return false
		}
	}
	return true
}
