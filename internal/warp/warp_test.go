package warp

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestValue(t *testing.T) {
	var v any
	text := `{"a":[1,{"b":"c"}],"d":null,"e":{}}`
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 2000 {
		how := []byte{byte(i), byte(i >> 4), byte(i * 7), byte(i >> 3), byte(i * 13), byte(i)}
		once, twice := Value(v, how), Value(v, how)
		if !reflect.DeepEqual(once, twice) {
			t.Fatalf("%v makes %v and %v", how, once, twice)
		}
		b, err := json.Marshal(once)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(b)] = true
	}
	if b, _ := json.Marshal(v); string(b) != text {
		t.Errorf("the value itself is changed: %s", b)
	}
	if len(seen) < 300 {
		t.Errorf("only %d values of 2000", len(seen))
	}
	if !reflect.DeepEqual(Value(v, nil), v) {
		t.Error("changed without being told")
	}
}
