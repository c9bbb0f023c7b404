package wire

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// FuzzDecode: what a decoder takes comes back the same from the encoder of the
// same format; custom resources have a decoder of their own.
func FuzzDecode(f *testing.F) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		f.Fatal(err)
	}
	c := New(scheme)
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1"}}}]}}`
	f.Add(uint8(0), []byte(pod))
	f.Add(uint8(1), []byte("apiVersion: v1\nkind: Pod\nmetadata: &m {name: p}\nspec: {containers: [{name: c, env: [{name: A, value: 'yes'}]}]}\n"))
	f.Add(uint8(2), []byte("k8s\x00\n\t\n\x02v1\x12\x03Pod\x12\x05\n\x03\n\x01x"))
	f.Add(uint8(3), []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","creationTimestamp":null},"spec":{"a":[1,1.5,null]}}`))
	f.Add(uint8(4), []byte("apiVersion: v1\nkind: Pod\nspec: {1: 2, true: [x]}\n"))
	f.Add(uint8(0), []byte(`{"apiVersion":"v1","kind":"Pod","spec":{"containers":{"a":1e999}}}`))
	want := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	f.Fuzz(func(t *testing.T, how uint8, data []byte) {
		m, custom := []Media{JSON, YAML, Protobuf, JSON, YAML}[how%5], how%5 > 2
		fresh := func() runtime.Object {
			if custom {
				return &unstructured.Unstructured{}
			}
			return &corev1.Pod{}
		}
		obj := fresh()
		if _, err := c.Decode(m, data, obj, want); err != nil {
			return
		}
		body, err := c.Body(m, obj)
		if err != nil {
			return // text that the format cannot carry
		}
		pieces, err := NewHead(want).Message(m, Body{Bytes: body})
		if err != nil {
			return
		}
		var all []byte
		for _, p := range pieces {
			all = append(all, p...)
		}
		again := fresh()
		if _, err := c.Decode(m, all, again, want); err != nil {
			t.Fatalf("%q is encoded as %q, which is refused: %v", data, all, err)
		}
		if !custom && !apiequality.Semantic.DeepEqual(obj, again) {
			t.Errorf("%q comes back as %+v, was %+v", data, again, obj)
		}
	})
}
