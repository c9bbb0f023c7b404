package patch

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func doc(t testing.TB, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMerge(t *testing.T) {
	for _, tt := range []struct{ doc, patch, want string }{
		{`{"a":1}`, `{"a":2}`, `{"a":2}`},
		{`{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`},
		{`{"a":{"b":1,"c":2}}`, `{"a":{"b":null,"d":3}}`, `{"a":{"c":2,"d":3}}`},
		{`{"a":[1,2]}`, `{"a":[3]}`, `{"a":[3]}`},
		{`{"a":1}`, `{"a":{"b":null,"c":1}}`, `{"a":{"c":1}}`},
		{`{}`, `{}`, `{}`},
	} {
		got, _, err := Merge(doc(t, tt.doc), []byte(tt.patch))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(got)
		if string(b) != tt.want {
			t.Errorf("%s + %s = %s, want %s", tt.doc, tt.patch, b, tt.want)
		}
	}
	if _, strict, err := Merge(doc(t, `{}`), []byte(`{"a":1,"a":2}`)); err != nil || len(strict) != 1 || strict[0].Error() != `duplicate field "a"` {
		t.Error(strict, err)
	}
	if _, _, err := Merge(doc(t, `{}`), []byte(`[`)); !apierrors.IsBadRequest(err) || !strings.HasPrefix(err.Error(), "error decoding patch: ") {
		t.Error(err)
	}
}

// FuzzMerge holds the merge against a library's.
func FuzzMerge(f *testing.F) {
	f.Add(`{"a":{"b":1}}`, `{"a":{"b":null,"c":[1,null]}}`)
	f.Add(`{"a":1}`, `{"a":{"b":{}}}`)
	f.Fuzz(func(t *testing.T, original, patch string) {
		var m, p map[string]any
		if json.Unmarshal([]byte(original), &m) != nil || json.Unmarshal([]byte(patch), &p) != nil || m == nil || p == nil {
			return
		}
		ref, err := jsonpatch.MergePatch([]byte(original), []byte(patch))
		if err != nil {
			return
		}
		got, strict, err := Merge(m, []byte(patch))
		if err != nil || len(strict) > 0 {
			return
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(doc(t, string(b)), doc(t, string(ref))) {
			t.Errorf("%s + %s = %s, want %s", original, patch, b, ref)
		}
	})
}

func TestStrategic(t *testing.T) {
	d := doc(t, `{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}}`)
	out, _, _, err := Strategic(d, []byte(`{"spec":{"containers":[{"name":"b","image":"2"}]}}`), &corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(out)
	if !strings.Contains(string(got), `{"image":"1","name":"a"}`) || !strings.Contains(string(got), `{"image":"2","name":"b"}`) {
		t.Error(string(got))
	}
	if _, _, _, err := Strategic(d, []byte(`[`), &corev1.Pod{}); !apierrors.IsBadRequest(err) {
		t.Error(err)
	}
}

func TestJSON(t *testing.T) {
	many := "[" + strings.Repeat(`{"op":"test","path":"/a","value":1},`, MaxOperations) + `{"op":"test","path":"/a","value":1}]`
	for _, tt := range []struct {
		patch string
		code  int32
		want  string
	}{
		{`[{"op":"replace","path":"/a","value":2}]`, 0, `{"a":2}`},
		{`[{"op":"test","path":"/a","value":2}]`, 422, ""},
		{`{}`, 400, ""},
		{many, 413, "The allowed maximum operations in a JSON patch is 10000, got 10001"},
	} {
		out, _, err := JSON([]byte(`{"a":1}`), []byte(tt.patch))
		if tt.code == 0 {
			if err != nil || string(out) != tt.want {
				t.Error(string(out), err)
			}
			continue
		}
		st, ok := err.(apierrors.APIStatus)
		if !ok || st.Status().Code != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %d %s", err, tt.code, tt.want)
		}
	}
}

// An operation without its value ends no request in a panic.
func TestNothingToTest(t *testing.T) {
	if out, _, err := JSON([]byte(`{}`), []byte(`[{"op":"test","path":""}]`)); out != nil || apierrors.ReasonForError(err) != metav1.StatusReasonInvalid {
		t.Errorf("%s, %v", out, err)
	}
}

// Operations that copy the document into itself are stopped before it fills the
// memory.
func TestCopiesAreBounded(t *testing.T) {
	var ops []string
	for i := range 100 {
		ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"/data","path":"/data/%d"}`, i))
	}
	out, _, err := JSON([]byte(`{"data":{"k":"v"}}`), []byte("["+strings.Join(ops, ",")+"]"))
	if len(out) > 0 || apierrors.ReasonForError(err) != metav1.StatusReasonInvalid {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if out, _, err = JSON([]byte(`{"data":{"k":"v"}}`), []byte("["+strings.Join(ops[:10], ",")+"]")); err != nil || len(out) < 1024 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestApplied(t *testing.T) {
	for _, tt := range []struct {
		in     string
		strict bool
		bad    bool
	}{
		{"apiVersion: v1\nkind: ConfigMap\nspec: {num: 5}\n", false, false},
		{`{"apiVersion":"v1","kind":"ConfigMap","spec":{"num":5}}`, false, false},
		{"{apiVersion: v1, kind: ConfigMap, spec: {num: 5}}", false, false},
		{"apiVersion: v1\nkind: ConfigMap\nkind: ConfigMap\nspec: {num: 5}\n", true, false},
		{`{"apiVersion":"v1","kind":"ConfigMap","kind":"ConfigMap","spec":{"num":5}}`, true, false},
		{"\t", false, true},
		{"[1]", false, true},
	} {
		obj, strict, err := Applied([]byte(tt.in))
		if (err != nil) != tt.bad || (strict != nil) != tt.strict {
			t.Errorf("%q: %v, %v", tt.in, strict, err)
			continue
		}
		if tt.bad {
			continue
		}
		if n := obj.Object["spec"].(map[string]any)["num"]; n != int64(5) || obj.GetKind() != "ConfigMap" {
			t.Errorf("%q: %v", tt.in, obj)
		}
	}
}
