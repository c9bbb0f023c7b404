package plainjson

import (
	"bytes"
	"encoding/json"
	"testing"

	kjson "sigs.k8s.io/json"
)

func FuzzMarshal(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `null`, `{"a":{"b":[1,-2,1.5,1e30,1e-9,true,false,null,"x"]},"":"é<&>\u2028\u0000\"\\/\t"}`, `{"<":1,"b":2,"B":3}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v any
		if kjson.UnmarshalCaseSensitivePreserveInts(text, &v) != nil {
			return
		}
		want, err := json.Marshal(v)
		if err != nil {
			return
		}
		got, err := Marshal(v)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	})
}

func TestWithout(t *testing.T) {
	got, err := Without([]byte("x"), map[string]any{"kind": "K", "b": int64(1), "a": map[string]any{"kind": nil}}, "kind", "apiVersion")
	if err != nil || string(got) != `x{"a":{"kind":null},"b":1}` {
		t.Error(string(got), err)
	}
	for _, v := range []any{map[string]any(nil), []any(nil), json.Number("12"), make(chan int)} {
		want, wantErr := json.Marshal(v)
		got, err := Marshal(v)
		if string(got) != string(want) || (err == nil) != (wantErr == nil) {
			t.Errorf("%T: %s, %v; want %s, %v", v, got, err, want, wantErr)
		}
	}
}
