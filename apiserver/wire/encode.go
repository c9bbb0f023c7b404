package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Counter counts encodings and decodings of objects. The local door's promise
// to encode nothing is tested with it. It is safe for concurrent use.
type Counter struct{ Encoded, Decoded atomic.Int64 }

// Codec encodes and decodes the objects of one scheme. It is safe for
// concurrent use.
type Codec struct {
	Counter Counter
	decoders
}

// New returns a codec for the types of a scheme.
func New(scheme *runtime.Scheme) *Codec {
	return &Codec{decoders: newDecoders(scheme)}
}

// Body encodes obj in a format, without kind and apiVersion (for YAML: as
// JSON). obj is only read.
func (c *Codec) Body(m Media, obj runtime.Object) ([]byte, error) {
	c.Counter.Encoded.Add(1)
	if m == Protobuf {
		p, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf form", obj)
		}
		return p.Marshal()
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return customBody(u)
	}
	if !obj.GetObjectKind().GroupVersionKind().Empty() {
		obj = Shallow(obj)
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return json.Marshal(obj)
}

// Shallow copies the struct that obj points to, and nothing below it: for
// setting its kind while the rest stays shared and read only.
func Shallow(obj runtime.Object) runtime.Object {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return shallowCustom(u)
	}
	src := reflect.ValueOf(obj)
	dst := reflect.New(src.Type().Elem())
	dst.Elem().Set(src.Elem())
	return dst.Interface().(runtime.Object)
}

// Head is a kind in the forms that precede a body. Make it once per kind with
// NewHead; it is read only.
type Head struct {
	GVK   schema.GroupVersionKind
	json  []byte // {"kind":"Pod","apiVersion":"v1"
	proto []byte // field 1 of runtime.Unknown

	// Unstructured lists name their continue token also when they have none:
	// upstream's of custom resources do.
	Unstructured bool
}

// NewHead prepares a kind's head.
func NewHead(gvk schema.GroupVersionKind) *Head {
	av, kind := gvk.ToAPIVersionAndKind()
	h := &Head{GVK: gvk}
	h.json = append(h.json, `{"kind":`...)
	h.json = appendString(h.json, kind)
	h.json = append(h.json, `,"apiVersion":`...)
	h.json = appendString(h.json, av)
	var meta []byte
	meta = appendField(meta, 1, []byte(av))
	meta = appendField(meta, 2, []byte(kind))
	h.proto = appendField(nil, 1, meta)
	return h
}

func appendString(dst []byte, s string) []byte {
	b, _ := json.Marshal(s)
	return append(dst, b...)
}

// appendField appends a length-delimited protobuf field.
func appendField(dst []byte, num int, b []byte) []byte {
	dst = appendFieldHead(dst, num, len(b))
	return append(dst, b...)
}

func appendFieldHead(dst []byte, num, size int) []byte {
	dst = append(dst, byte(num<<3|2))
	return binary.AppendUvarint(dst, uint64(size))
}

// protoMagic starts every protobuf answer and every stored value.
var protoMagic = []byte{'k', '8', 's', 0}

// tail is what ends a runtime.Unknown: empty content encoding and type.
var protoTail = []byte{3<<3 | 2, 0, 4<<3 | 2, 0}

// Body is an object's encoding without its kind: bytes, and what follows them
// to complete them (protobuf only). Both are shared and read only.
type Body struct{ Bytes, Tail []byte }

func (b Body) size() int { return len(b.Bytes) + len(b.Tail) }

// Message puts a body of one kind together with its head, as pieces that are
// to be written one after the other. The body itself is not copied.
func (h *Head) Message(m Media, body Body) ([][]byte, error) {
	switch m {
	case Protobuf:
		head := make([]byte, 0, len(protoMagic)+len(h.proto)+8)
		head = append(head, protoMagic...)
		head = append(head, h.proto...)
		head = appendFieldHead(head, 2, body.size())
		return [][]byte{head, body.Bytes, body.Tail, protoTail}, nil
	case YAML:
		out, err := yaml.JSONToYAML(h.appendJSON(nil, body.Bytes))
		return [][]byte{out}, err
	}
	return [][]byte{h.json, joint(body.Bytes), body.Bytes[1:], newline}, nil
}

var (
	newline = []byte{'\n'}
	comma   = []byte{','}
	nothing = []byte{}
)

// joint is what goes between a head and the rest of an object's JSON.
func joint(body []byte) []byte {
	if len(body) > 2 {
		return comma
	}
	return nothing
}

// appendJSON appends the complete JSON object.
func (h *Head) appendJSON(dst, body []byte) []byte {
	dst = append(dst, h.json...)
	dst = append(dst, joint(body)...)
	return append(dst, body[1:]...)
}

// JSON returns the complete JSON object.
func (h *Head) JSON(body []byte) []byte {
	return h.appendJSON(make([]byte, 0, len(h.json)+1+len(body)), body)
}

// ListPieces is how many pieces a list of n items has at most.
func ListPieces(n int) int { return 4*n + 2 }

// List puts a list together from the bodies of its items, without copying
// them, and appends its pieces to out, whose memory is used if it suffices.
// typed names the kind in each JSON item (nil: items go without).
func (h *Head) List(out [][]byte, m Media, meta *metav1.ListMeta, items []Body, typed *Head) ([][]byte, error) {
	out = slices.Grow(out, ListPieces(len(items)))
	if m == Protobuf {
		return h.protoList(out, meta, items)
	}
	mb, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	head := append([]byte(nil), h.json...)
	head = append(head, `,"metadata":`...)
	if h.Unstructured && meta.Continue == "" {
		head = append(head, `{"continue":""`...)
		if len(mb) > len("{}") {
			mb[0] = ','
			head = append(head, mb...)
		} else {
			head = append(head, '}')
		}
	} else {
		head = append(head, mb...)
	}
	if len(items) == 0 && h.GVK.Kind == "PartialObjectMetadataList" { // which upstream makes without a list
		out = append(out, append(head, `,"items":null}`+"\n"...))
		if m == YAML {
			y, err := yaml.JSONToYAML(join(out))
			return [][]byte{y}, err
		}
		return out, nil
	}
	head = append(head, `,"items":[`...)
	out = append(out, head)
	for i, it := range items {
		if i > 0 {
			out = append(out, comma)
		}
		if typed != nil {
			out = append(out, typed.json, joint(it.Bytes), it.Bytes[1:])
		} else {
			out = append(out, it.Bytes)
		}
	}
	out = append(out, []byte("]}\n"))
	if m == YAML {
		y, err := yaml.JSONToYAML(join(out))
		return [][]byte{y}, err
	}
	return out, nil
}

func (h *Head) protoList(out [][]byte, meta *metav1.ListMeta, items []Body) ([][]byte, error) {
	mb, err := meta.Marshal()
	if err != nil {
		return nil, err
	}
	metaField := appendField(nil, 1, mb)
	size := len(metaField)
	for _, it := range items {
		n := it.size()
		size += 1 + uvarintLen(n) + n
	}
	head := append([]byte(nil), protoMagic...)
	head = append(head, h.proto...)
	head = appendFieldHead(head, 2, size)
	head = append(head, metaField...)
	out = append(out, head)
	heads := make([]byte, 0, 4*len(items))
	for _, it := range items {
		n := len(heads)
		heads = appendFieldHead(heads, 2, it.size())
		out = append(out, heads[n:len(heads):len(heads)], it.Bytes)
		if len(it.Tail) > 0 {
			out = append(out, it.Tail)
		}
	}
	return append(out, protoTail), nil
}

func join(pieces [][]byte) []byte {
	out := make([]byte, 0, Size(pieces))
	for _, p := range pieces {
		out = append(out, p...)
	}
	return out
}

// Size is the number of bytes in pieces.
func Size(pieces [][]byte) int {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// AppendFrame appends one watch event to dst: a JSON line, or a
// length-delimited protobuf WatchEvent.
func (h *Head) AppendFrame(dst []byte, m Media, event string, body Body) []byte {
	if m == Protobuf {
		n := body.size()
		msg := len(protoMagic) + len(h.proto) + 1 + uvarintLen(n) + n + len(protoTail)
		raw := 1 + uvarintLen(msg) + msg
		total := 2 + len(event) + 1 + uvarintLen(raw) + raw
		dst = binary.BigEndian.AppendUint32(dst, uint32(total))
		dst = appendField(dst, 1, []byte(event))
		dst = appendFieldHead(dst, 2, raw)
		dst = appendFieldHead(dst, 1, msg)
		dst = append(dst, protoMagic...)
		dst = append(dst, h.proto...)
		dst = appendFieldHead(dst, 2, n)
		dst = append(dst, body.Bytes...)
		dst = append(dst, body.Tail...)
		return append(dst, protoTail...)
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, event...)
	dst = append(dst, `","object":`...)
	dst = h.appendJSON(dst, body.Bytes)
	return append(dst, "}\n"...)
}

func uvarintLen(n int) int {
	l := 1
	for n >= 0x80 {
		n >>= 7
		l++
	}
	return l
}

// ToYAML shows JSON as YAML.
func ToYAML(js []byte) ([]byte, error) { return yaml.JSONToYAML(js) }
