package shape

import (
	"encoding/binary"
	"math"
	"slices"
)

// Object is Append for decoded JSON, as custom objects consist of: it says
// which fields of old came, went and became others in new, lists with all that
// they were and are. What keeps the record of owners, metadata.managedFields,
// is no change. ok is false for what no decoder makes. Both are only read.
func Object(dst []byte, old, new map[string]any) (out []byte, changed, ok bool) {
	d := treeDiffer{differ: differ{out: dst}}
	changed = d.object(old, new, 0)
	return d.out, changed, !d.strange
}

type treeDiffer struct {
	differ
	strange bool // a value was met that JSON does not have
}

// object describes the change of a map; depth 0 is the object, 1 what is in it.
func (d *treeDiffer) object(old, new map[string]any, depth int) bool {
	var room [32]string
	names := room[:0]
	for name := range old {
		names = append(names, name)
	}
	for name := range new {
		if _, had := old[name]; !had {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	at := len(d.out)
	emptiness := byte(became) // an empty map is a field of its own
	if len(old) == 0 {
		emptiness |= 0x80
	}
	if len(new) == 0 {
		emptiness |= 0x20
	}
	d.byte(emptiness)
	changed := false
	for _, name := range names {
		was, had := old[name]
		is, has := new[name]
		deeper := inside
		switch {
		case depth == 1 && name == "managedFields":
			continue
		case depth == 0 && name == "metadata":
			deeper = 1
		}
		start := len(d.out)
		d.byte(became)
		d.string(name)
		switch {
		case !had:
			d.byte(came)
			d.arrived(is, deeper)
		case !has:
			d.byte(went)
			d.arrived(was, deeper)
		case !d.value(was, is, deeper):
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

// inside is a depth at which no field is a special one.
const inside = 2

// arrived describes what came or went by its fields.
func (d *treeDiffer) arrived(v any, depth int) {
	if m, ok := v.(map[string]any); ok {
		if !d.object(nil, m, depth) {
			d.byte(end)
		}
		return
	}
	d.json(v, false)
}

func (d *treeDiffer) value(old, new any, depth int) bool {
	switch was := old.(type) {
	case map[string]any:
		if is, ok := new.(map[string]any); ok {
			return d.object(was, is, depth)
		}
	case []any:
		if is, ok := new.([]any); ok {
			return d.list(was, is)
		}
	case string, bool, int64, float64, nil:
		switch new.(type) {
		case map[string]any, []any:
		default:
			if old == new {
				return false
			}
		}
	}
	d.byte(another)
	d.json(old, false)
	d.json(new, false)
	return true
}

// list describes a list that is another by all that it was and is.
func (d *treeDiffer) list(old, new []any) bool {
	at := len(d.out)
	d.byte('[')
	begin := len(d.out)
	d.json(old, true)
	mid := len(d.out)
	d.json(new, true)
	if string(d.out[begin:mid]) == string(d.out[mid:]) {
		d.out = d.out[:at]
		return false
	}
	return true
}

// json describes a value: scalars by their type and, if whole, themselves.
func (d *treeDiffer) json(v any, whole bool) {
	switch v := v.(type) {
	case nil:
		d.byte('n')
	case string:
		d.byte('s')
		if whole {
			d.string(v)
		}
	case bool:
		d.byte('b')
		if whole && v {
			d.byte(1)
		} else if whole {
			d.byte(0)
		}
	case int64:
		d.byte('i')
		if whole {
			d.out = binary.AppendVarint(d.out, v)
		}
	case float64:
		d.byte('f')
		if whole {
			d.out = binary.BigEndian.AppendUint64(d.out, math.Float64bits(v))
		}
	case []any:
		d.byte('l')
		d.out = binary.AppendUvarint(d.out, uint64(len(v)))
		for _, item := range v {
			d.json(item, true)
		}
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		d.byte('m')
		d.out = binary.AppendUvarint(d.out, uint64(len(names)))
		for _, name := range names {
			d.string(name)
			d.json(v[name], whole)
		}
	default:
		d.strange = true
	}
}
