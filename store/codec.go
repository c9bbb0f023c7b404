package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/internal/envelope"
	"github.com/coxswain/cox/internal/plainjson"
)

// codec turns one kind's hub objects into stored bytes and back.
type codec struct {
	kind  *api.Kind
	table *api.Table // may be nil: then only the hub's version is read
	// json: the kind is stored as JSON although its type knows protobuf, or
	// because it does not.
	json         bool
	unstructured bool
	seed         maphash.Seed
}

// protobuf is what generated types of k8s.io/api implement.
type protobuf interface {
	runtime.ProtobufMarshaller
	Size() int
	Unmarshal([]byte) error
}

func newCodec(k *api.Kind, t *api.Table, seed maphash.Seed) *codec {
	c := &codec{kind: k, table: t, seed: seed, json: k.StoredJSON}
	obj := k.New()
	if _, ok := obj.(protobuf); !ok {
		c.json = true
	}
	_, c.unstructured = obj.(*unstructured.Unstructured)
	return c
}

// encode returns the bytes to store. It owns obj, and leaves it without
// resourceVersion and, when typed, without apiVersion and kind.
func (c *codec) encode(obj runtime.Object) ([]byte, error) {
	o, ok := obj.(api.Object)
	if !ok {
		return nil, fmt.Errorf("%T has no object metadata", obj)
	}
	o.SetResourceVersion("")
	if c.json {
		if f := c.kind.Stored; f != nil {
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			var err error
			if obj, err = f.FromHub(obj); err != nil {
				return nil, fmt.Errorf("conversion to %v: %w", f.GVK, err)
			}
		}
		obj.GetObjectKind().SetGroupVersionKind(c.kind.StorageGVK())
		var data []byte
		var err error
		if u, ok := obj.(*unstructured.Unstructured); ok {
			data, err = plainjson.Append(make([]byte, 0, 2048), u.Object)
		} else {
			data, err = utiljson.Marshal(obj)
		}
		if !c.unstructured {
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		if err != nil {
			return nil, err
		}
		if n := len(data); n == 0 || data[n-1] != '\n' {
			data = append(data, '\n')
		}
		return data, nil
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return EncodeProtobuf(obj, c.kind.Hub)
}

// EncodeProtobuf returns obj in Kubernetes' protobuf envelope under the given
// name, whatever the object's own TypeMeta says. obj is only read.
func EncodeProtobuf(obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	p, ok := obj.(protobuf)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf encoding", obj)
	}
	av, kind := gvk.ToAPIVersionAndKind()
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: av, Kind: kind}}
	size := p.Size()
	room := len(envelope.Magic) + u.Size() + 1 + binary.MaxVarintLen64 + size
	data := make([]byte, room)
	n := copy(data, envelope.Magic)
	m, err := u.NestedMarshalTo(data[n:], p, uint64(size))
	if err != nil {
		return nil, err
	}
	return data[: n+m : n+m], nil
}

// decode returns a fresh hub object with its resourceVersion and today's
// defaults set.
func (c *codec) decode(data []byte, revision int64) (runtime.Object, error) {
	obj, err := c.decodeHub(data)
	if err != nil {
		return nil, err
	}
	if c.kind.Strategy.Default != nil {
		c.kind.Strategy.Default(obj)
	}
	o, ok := obj.(api.Object)
	if !ok {
		return nil, fmt.Errorf("%T has no object metadata", obj)
	}
	o.SetResourceVersion(strconv.FormatInt(revision, 10))
	if !c.unstructured {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, nil
}

func (c *codec) decodeHub(data []byte) (runtime.Object, error) {
	if rest, ok := bytes.CutPrefix(data, []byte(envelope.Magic)); ok {
		var u runtime.Unknown
		if e, ok := envelope.Open(data); ok {
			u.APIVersion, u.Kind, u.Raw = string(e.APIVersion), string(e.Kind), e.Raw
		} else if err := u.Unmarshal(rest); err != nil {
			return nil, fmt.Errorf("protobuf envelope: %w", err)
		}
		gvk := schema.FromAPIVersionAndKind(u.APIVersion, u.Kind)
		return c.convert(gvk, func(into runtime.Object) error {
			p, ok := into.(protobuf)
			if !ok {
				return fmt.Errorf("%T has no protobuf encoding", into)
			}
			return p.Unmarshal(u.Raw)
		})
	}
	var meta runtime.TypeMeta
	if !c.unstructured {
		if err := utiljson.Unmarshal(data, &meta); err != nil {
			return nil, err
		}
		gvk := schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind)
		return c.convert(gvk, func(into runtime.Object) error { return utiljson.Unmarshal(data, into) })
	}
	u := c.kind.New().(*unstructured.Unstructured)
	if err := u.UnmarshalJSON(data); err != nil {
		return nil, err
	}
	if gvk := u.GroupVersionKind(); gvk != c.kind.Hub && c.kind.Older != nil {
		if _, toHub := c.kind.Older(gvk); toHub != nil {
			return toHub(u)
		}
	}
	u.SetGroupVersionKind(c.kind.Hub)
	return u, nil
}

// convert fills an object of the stored version and brings it to the hub.
func (c *codec) convert(gvk schema.GroupVersionKind, fill func(runtime.Object) error) (runtime.Object, error) {
	if gvk == c.kind.Hub {
		obj := c.kind.New()
		return obj, fill(obj)
	}
	if c.kind.Older != nil {
		if obj, toHub := c.kind.Older(gvk); obj != nil {
			if err := fill(obj); err != nil {
				return nil, err
			}
			return toHub(obj)
		}
	}
	if c.table != nil {
		if s, ok := c.table.Kind(gvk); ok && s.Kind == c.kind {
			obj := s.View.New()
			if err := fill(obj); err != nil {
				return nil, err
			}
			if s.View.Default != nil {
				s.View.Default(obj)
			}
			if s.View.ToHub == nil {
				return obj, nil
			}
			return s.View.ToHub(obj)
		}
	}
	return nil, fmt.Errorf("stored as %v, which is unknown here", gvk)
}

// sum tells encodings apart. It is never 0.
func (c *codec) sum(data []byte) uint64 {
	return maphash.Bytes(c.seed, data) | 1
}

// appendRevision appends to dst what sets an object's resourceVersion when it
// follows its message: a second, partial metadata field, which protobuf readers
// merge into the first.
func appendRevision(dst []byte, revision int64) []byte {
	// metadata = 1, a message; in it resourceVersion = 6, a string.
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = strconv.AppendInt(dst, revision, 10)
	n := byte(len(dst) - at - 4)
	dst[at], dst[at+1], dst[at+2], dst[at+3] = 0x0a, n+2, 0x32, n
	return dst
}
