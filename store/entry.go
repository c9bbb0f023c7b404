package store

import (
	"unique"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Entry is one object at one revision: immutable, shared by every reader of
// the process.
type Entry struct {
	// Key is relative to the kind's prefix.
	Key string
	// Object is the hub object with its resourceVersion set; typed objects
	// carry no apiVersion and kind. Read only.
	Object runtime.Object
	// Revision is the etcd revision that wrote (or deleted) the object.
	Revision int64

	// sum tells stored encodings apart; 0 is unknown. size is their length.
	sum  uint64
	size int32
	// stale says that the stored value is to be written anew although the
	// object does not change.
	stale bool

	// encodings holds what Encoded has made; the store bounds the bytes of
	// all entries together.
	encodings encodings
}

// Format names one encoding of an object: a wire format in one served
// version. Table rows and metadata-only forms have formats of their own. It is
// compared for every object of a list, hence a handle.
type Format struct{ name unique.Handle[formatName] }

type formatName struct {
	media   string
	version schema.GroupVersion
}

// NewFormat returns the format of a media ("json", "protobuf") in a version. It
// equals every other one made of the same.
func NewFormat(media string, version schema.GroupVersion) Format {
	return Format{unique.Make(formatName{media, version})}
}

// Encoded returns the entry in a format, calling encode only if no one has
// before (or the bytes have been evicted since). The bytes are shared and
// read only.
func (e *Entry) Encoded(f Format, encode func() ([]byte, error)) ([]byte, error) {
	return e.encodings.get(f, encode)
}

// formatStored is the encoding as stored, before any transformer.
var formatStored = NewFormat("stored", schema.GroupVersion{})

// Stored returns the object's bytes as they were stored (after decryption:
// the protobuf envelope, or JSON), without a resourceVersion, if this process
// wrote them, with today's defaults, and they are still at hand; else nil.
// They are shared and read only.
func (e *Entry) Stored() []byte { return e.encodings.peek(formatStored) }

// Message returns the object's protobuf message in the hub version in two
// parts, to be read one after the other, without encoding anything: the stored
// message, which is read only, and a field that sets the resourceVersion, which
// is appended to room (nil will do; it takes up to 24 bytes). ok is false when
// Stored has nothing, or nothing in protobuf.
func (e *Entry) Message(room []byte) (stored, revision []byte, ok bool) {
	stored, ok = e.encodings.message()
	if !ok {
		return nil, nil, false
	}
	return stored, appendRevision(room, e.Revision)[len(room):], true
}
