package patch

import (
	"encoding/binary"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/internal/plainjson"
)

// ApplyTree is Apply for a custom object: it merges maps and replaces all else.
// Whether that is what the schema wants is not asked, so the description holds
// what that depends on: the names beside those of the configuration, the types
// of scalars, and lists with their content. ok is false for configurations with
// nulls or with something else where the object has a map.
func ApplyTree(obj, conf map[string]any) (description []byte, ok bool) {
	m := treeMerger{merger{applied: true, out: make([]byte, 0, 512)}}
	ok = m.merge(obj, conf, 0)
	return m.out, ok
}

type treeMerger struct{ merger }

func (m *treeMerger) merge(to, from map[string]any, depth int) bool {
	m.say('{')
	for _, name := range m.keys(to) {
		m.sayString(name)
	}
	m.say(0)
	m.out = binary.AppendUvarint(m.out, uint64(len(from)))
	for _, name := range m.keys(from) {
		if depth == 1 && name == "managedFields" {
			return false
		}
		m.sayString(name)
		below := depth + 1
		if depth == 0 && name != "metadata" {
			below = 2
		}
		if !m.put(to, name, from[name], below) {
			return false
		}
	}
	return true
}

func (m *treeMerger) put(to map[string]any, name string, val any, depth int) bool {
	was, had := to[name]
	switch val := val.(type) {
	case nil:
		return false
	case map[string]any:
		into, isMap := was.(map[string]any)
		switch {
		case !had:
			m.say('A')
			into = map[string]any{}
			to[name] = into
		case !isMap:
			return false
		default:
			m.say('M')
		}
		return m.merge(into, val, depth)
	case []any:
		m.say('L')
		m.content(was)
		m.content(val)
		to[name] = runtime.DeepCopyJSONValue(val)
		return true
	}
	switch was.(type) {
	case map[string]any, []any:
		return false
	}
	switch {
	case !had:
		m.say('+', typeOf(val))
	case was == val:
		m.say('=', typeOf(val))
	default:
		m.say('!', typeOf(was), typeOf(val))
	}
	to[name] = val
	return true
}

// content describes a value whole.
func (m *treeMerger) content(v any) {
	at := len(m.out)
	out, err := plainjson.Append(m.out, v)
	if err != nil {
		m.out = m.out[:at]
		return
	}
	m.out = append(out, 0)
}

// typeOf tells the types of scalars apart.
func typeOf(v any) byte {
	switch v.(type) {
	case nil:
		return 'n'
	case string:
		return 's'
	case bool:
		return 'b'
	case int64:
		return 'i'
	}
	return 'f'
}

// keys are a map's, sorted.
func (m *treeMerger) keys(doc map[string]any) []string {
	out := make([]string, 0, len(doc))
	for k := range doc {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
