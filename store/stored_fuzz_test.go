package store

import (
	"bytes"
	"hash/maphash"
	"testing"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/coxswain/cox/api/builtin"
)

// FuzzStored reads what anyone may have put under a key: it is refused, or is
// an object that is the same when it is written and read again.
func FuzzStored(f *testing.F) {
	table, err := builtin.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), []byte("k8s\x00\n\t\n\x02v1\x12\x03Pod\x12\x05\n\x03\n\x01x"))
	f.Add(uint8(3), []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","resourceVersion":"7"}}`))
	f.Add(uint8(7), []byte("k8s\x00"))
	f.Add(uint8(9), []byte("k8s:enc:aescbc:v1:k:x"))
	var codecs []*codec
	for _, k := range table.Kinds {
		if k.Prefix == "" {
			continue
		}
		codecs = append(codecs, newCodec(k, table, maphash.MakeSeed()))
		if len(codecs) < 200 {
			if b, err := codecs[len(codecs)-1].encode(k.New()); err == nil {
				f.Add(uint8(len(codecs)-1), b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		c := codecs[int(which)%len(codecs)]
		obj, err := c.decode(bytes.Clone(data), 5)
		if err != nil {
			return
		}
		written, err := c.encode(obj.DeepCopyObject())
		if err != nil {
			return // text that is no UTF-8
		}
		again, err := c.decode(bytes.Clone(written), 5)
		if err != nil {
			t.Fatalf("%s: %q is written as %q, which cannot be read: %v", c.kind.Resource, data, written, err)
		}
		if !apiequality.Semantic.DeepEqual(obj, again) {
			t.Errorf("%s: %q is read as %+v, and then as %+v", c.kind.Resource, data, obj, again)
		}
	})
}
