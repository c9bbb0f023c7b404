// Package envelope opens the envelope of protobuf-encoded Kubernetes objects in
// place: four bytes and a runtime.Unknown around the object's own message, in
// etcd as in requests (API concepts, "Kubernetes protobuf encoding").
package envelope

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Magic begins every such encoding.
const Magic = "k8s\x00"

// Message is what is in an envelope; its fields are parts of what was opened.
type Message struct {
	APIVersion, Kind []byte
	Raw              []byte // the object's message
	At               int    // where in what was opened the message begins
}

// Is reports whether the message says that it is of a kind.
func (m *Message) Is(apiVersion, kind string) bool {
	return string(m.APIVersion) == apiVersion && string(m.Kind) == kind
}

// Open returns what is in data, without copying it. ok is false for what is not
// in an envelope, or in an unusual one (other fields, a field twice, an encoding
// or media type of the message): that is for runtime.Unknown to judge.
func Open(data []byte) (m Message, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(Magic))
	if !ok {
		return m, false
	}
	var fields [5][]byte
	if !split(rest, fields[1:]) || fields[2] == nil || len(fields[3]) > 0 || len(fields[4]) > 0 {
		return m, false
	}
	var meta [3][]byte
	if !split(fields[1], meta[1:]) {
		return m, false
	}
	raw := fields[2]
	return Message{APIVersion: meta[1], Kind: meta[2], Raw: slices.Clip(raw), At: cap(data) - cap(raw)}, true
}

// split finds the fields of a message that has only strings and messages,
// numbered from 1. It is false if there is anything else, or one of them twice.
func split(b []byte, into [][]byte) bool {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType || int(number) > len(into) || into[number-1] != nil {
			return false
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return false
		}
		into[number-1] = v
		b = b[n+m:]
	}
	return true
}
