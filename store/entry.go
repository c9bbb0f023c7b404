package store

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Entry is one object at one revision: immutable, shared by every reader of
// the process.
type Entry struct {
	// Key is relative to the kind's prefix.
	Key string
	// Object is the hub object with its resourceVersion set. Read only.
	Object runtime.Object
	// Revision is the etcd revision that wrote (or deleted) the object.
	Revision int64

	// encodings holds what Encoded has made; the implementation bounds the
	// bytes of all entries together.
	encodings encodings
}

// Format names one encoding of an object: a wire format in one served
// version. Table rows and metadata-only forms have formats of their own.
type Format struct {
	Media   string // "json", "protobuf", "watch-json", ...
	Version schema.GroupVersion
}

// Encoded returns the entry in a format, calling encode only if no one has
// before (or the bytes have been evicted since). The bytes are shared and
// read only.
func (e *Entry) Encoded(f Format, encode func() ([]byte, error)) ([]byte, error) {
	return e.encodings.get(f, encode)
}
