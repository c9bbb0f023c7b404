// Package warp spoils JSON values for fuzz tests: a value and the bytes that a
// fuzzer made up go in, and a value that still looks much like the first comes
// out. Bytes of JSON changed at random hardly ever are JSON of a known shape;
// this stays close to it.
package warp

import (
	"maps"
	"math"
	"slices"
	"strings"
)

// most bounds the changes of one value, and the nodes that it grows to.
const (
	mostChanges = 24
	mostNodes   = 20000
)

// Value returns v changed as the bytes tell; the same bytes make the same
// changes, and none leave v as it is. v is not changed, but the result shares
// parts with it. Both are of what encoding/json makes of JSON.
func Value(v any, how []byte) any {
	w := &warper{how: how}
	for n := 0; n < mostChanges && len(w.how) > 0 && nodes(v) < mostNodes; n++ {
		w.root = v
		v = w.change(v)
	}
	return v
}

type warper struct {
	how  []byte
	root any
}

// pick takes a number below n from the bytes; it is 0 when they are used up.
func (w *warper) pick(n int) int {
	if n <= 1 || len(w.how) == 0 {
		return 0
	}
	b := int(w.how[0])
	w.how = w.how[1:]
	if n > 256 && len(w.how) > 0 {
		b = b<<8 | int(w.how[0])
		w.how = w.how[1:]
	}
	return b % n
}

// change returns v with one node changed: this one or one below.
func (w *warper) change(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 || w.pick(8) == 0 {
			return w.changeMap(v)
		}
		keys := slices.Sorted(maps.Keys(v))
		k := keys[w.pick(len(keys))]
		out := maps.Clone(v)
		out[k] = w.change(v[k])
		return out
	case []any:
		if len(v) == 0 || w.pick(8) == 0 {
			return w.changeList(v)
		}
		out := slices.Clone(v)
		i := w.pick(len(v))
		out[i] = w.change(v[i])
		return out
	default:
		return w.other(v)
	}
}

func (w *warper) changeMap(m map[string]any) any {
	keys := slices.Sorted(maps.Keys(m))
	out := maps.Clone(m)
	switch w.pick(4) {
	case 0:
		if len(keys) > 0 {
			delete(out, keys[w.pick(len(keys))])
		}
	case 1:
		out[w.word()] = w.word()
	case 2:
		if len(keys) > 1 {
			out[keys[w.pick(len(keys))]] = m[keys[w.pick(len(keys))]]
		}
	default:
		return w.other(m)
	}
	return out
}

func (w *warper) changeList(l []any) any {
	switch w.pick(5) {
	case 0:
		if len(l) > 0 {
			i := w.pick(len(l))
			return slices.Concat(l[:i], l[i+1:])
		}
	case 1:
		if len(l) > 0 {
			return append(slices.Clone(l), l[w.pick(len(l))])
		}
	case 2:
		return append(slices.Clone(l), w.other(nil))
	case 3:
		out := slices.Clone(l)
		slices.Reverse(out)
		return out
	}
	return w.other(l)
}

// other is what may stand in a value's place.
func (w *warper) other(v any) any {
	switch w.pick(6) {
	case 0, 1:
		if s, ok := v.(string); ok && w.pick(2) == 1 {
			return s + w.word()
		}
		return w.word()
	case 2:
		return numbers[w.pick(len(numbers))]
	case 3:
		return []any{nil, true, false, map[string]any{}, []any{}, []any{nil}, map[string]any{"": nil}}[w.pick(7)]
	case 4:
		return w.within(w.root)
	default:
		return []any{v, v}
	}
}

// within is some part of v.
func (w *warper) within(v any) any {
	for {
		switch in := v.(type) {
		case map[string]any:
			if keys := slices.Sorted(maps.Keys(in)); len(keys) > 0 {
				v = in[keys[w.pick(len(keys))]]
				if w.pick(3) == 0 {
					return v
				}
				continue
			}
		case []any:
			if len(in) > 0 {
				v = in[w.pick(len(in))]
				continue
			}
		}
		return v
	}
}

// word is one of the texts that parsers stumble over, or made of the bytes.
func (w *warper) word() string {
	if n := w.pick(len(words) + 8); n < len(words) {
		return words[n]
	}
	n := min(w.pick(12), len(w.how))
	s := string(w.how[:n])
	w.how = w.how[n:]
	return strings.ToValidUTF8(s, "\ufffd")
}

var numbers = []any{
	int64(0), int64(1), int64(-1), int64(1 << 31), int64(-1 << 31), int64(1<<31 - 1), int64(1<<63 - 1), int64(-1 << 63), int64(1 << 53), int64(65536),
	0.5, math.Copysign(0, -1), 1e300, 1e-300, int64(3600), int64(2), int64(100), int64(443),
}

var words = []string{
	"", " ", "a", "A", "-", ".", "..", "/", "//", "../..", "*", "*/*", "a/b", "a.b/c", "a=b", "%", "%00", "\x00", "\n", "{", "}", "[]", "(", "$(A)", "$(", "${a}", "~1", ":", "::",
	"0", "-1", "1", "5%", "100%", "101%", "-5%", "1Gi", "1e1000", "9999999999999999999999", "0.0000000001n", "1.5", "NaN", "true", "null", "None",
	"10.0.0.1", "10.0.0.0/8", "10.0.0.1/0", "::1", "fe80::1%eth0", "::ffff:1.2.3.4", "1.2.3", "0.0.0.0/0", "2001:db8::/129", "256.1.1.1", "010.1.1.1",
	"http://a", "https://a:b@c:99999/../x?y#z", "HTTP://[::1", "1h", "-1h", "9999999h", "2020-01-01T00:00:00Z", "0000-00-00T00:00:00Z", "* * * * *", "@every 1s", "TZ=x * * * * *",
	"kubernetes.io/hostname", "example.com/", "/example", "kube-system", "default", "metadata.name", "metadata.labels['a']", "spec.nodeName", "self == oldSelf", "object.a", "((((",
	"In", "NotIn", "Exists", "Equal", "Always", "Never", "TCP", "UDP", "ClusterIP", "ExternalName", "Recreate", "Retain", "Delete", "v1", "apps/v1",
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\u00e9", "\u202e", "\U0001f600", "\\", "\"", "'", "`", "<", "&",
}

func nodes(v any) int {
	n := 1
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			n += nodes(x)
		}
	case []any:
		for _, x := range v {
			n += nodes(x)
		}
	}
	return n
}
