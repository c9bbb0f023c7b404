package patch

import (
	"encoding/json"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

var patchSeeds = []string{
	`{"metadata":{"labels":{"a":"b","c":null}}}`, `{"spec":{"containers":[{"name":"a","image":"2","$patch":"delete"}]}}`,
	`{"spec":{"containers":[{"name":"a","env":[{"name":"x","value":"y"}]}],"$setElementOrder/containers":[{"name":"a"}]}}`,
	`{"spec":{"$retainKeys":["containers"],"containers":null}}`, `{"$patch":"replace"}`, `{"spec":{"tolerations":[{}]}}`,
	`{"status":{"conditions":[{"type":"Ready","status":"True","lastTransitionTime":null}]}}`, `{"spec":{"activeDeadlineSeconds":1e3}}`, `[]`, `null`, `{"a":`,
}

// whole is a pod with the lists that a stored one has.
func whole() *corev1.Pod {
	p := running()
	p.Spec.Containers = []corev1.Container{{Name: "a", Image: "1", Env: []corev1.EnvVar{{Name: "w", Value: "z"}}}, {Name: "b", Image: "1"}}
	p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: "Exists"}}
	return p
}

// FuzzOnto holds the short way of a patch, over the type, against the long
// one, over maps: where the short one is taken, both end at the same object.
func FuzzOnto(f *testing.F) {
	for _, s := range patchSeeds {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, strategic bool) {
		doc, strict, err := Decode([]byte(text))
		if err != nil || len(strict) > 0 || doc == nil {
			return
		}
		short := runtime.Object(whole())
		if !Onto(short, doc, strategic) {
			t.Skip("left to the long way")
		}
		before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(whole())
		if err != nil {
			t.Fatal(err)
		}
		var after map[string]any
		if strategic {
			after, _, _, err = Strategic(before, []byte(text), &corev1.Pod{})
		} else {
			after, _, err = Merge(before, []byte(text))
		}
		if err != nil {
			t.Fatalf("%s: the long way refuses it: %v", text, err)
		}
		long := &corev1.Pod{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(after, long); err != nil {
			t.Fatalf("%s: the long way refuses it: %v", text, err)
		}
		if !apiequality.Semantic.DeepEqual(short, runtime.Object(long)) {
			a, _ := json.Marshal(short)
			b, _ := json.Marshal(long)
			t.Errorf("%s\nshort %s\nlong  %s", text, a, b)
		}
	})
}

// FuzzJSON and FuzzStrategic: no patch ends the process, and errors are
// statuses.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`[{"op":"add","path":"/a/-","value":1}]`, `[{"op":"copy","from":"/a","path":"/a/0"}]`, `[{"op":"move","from":"","path":"/x"}]`,
		`[{"op":"test","path":"/a/~01","value":null}]`, `[{"op":"remove","path":"/a/99999999999999999999"}]`, `[{"op":"replace","path":"","value":1}]`, `[{}]`, `{}`,
	} {
		f.Add(`{"a":[1,{"b":null}],"~1":{}}`, s)
	}
	f.Fuzz(func(t *testing.T, doc, patch string) {
		if !json.Valid([]byte(doc)) {
			return
		}
		out, _, err := JSON([]byte(doc), []byte(patch))
		if err == nil && !json.Valid(out) {
			t.Errorf("%s + %s = %s", doc, patch, out)
		}
	})
}

func FuzzStrategic(f *testing.F) {
	for _, s := range patchSeeds {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		before, _ := runtime.DefaultUnstructuredConverter.ToUnstructured(whole())
		_, _, _, _ = Strategic(before, []byte(text), &corev1.Pod{})
	})
}

// FuzzApplied: a configuration that is JSON means what it means as YAML.
func FuzzApplied(f *testing.F) {
	for _, s := range []string{`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"}}`, "apiVersion: v1\nkind: ConfigMap\ndata: {a: 1, a: 2}\n", `{"a":1e400}`, "a: &a [*a]", "{a: b}", `{"a":9007199254740993}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		obj, strict, err := Applied([]byte(text))
		if err != nil || strict != nil {
			return
		}
		js, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Skip("JSON that is no YAML, such as with control characters")
		}
		again, _, err := Applied(js)
		if err != nil {
			t.Skip("numbers out of range")
		}
		if len(obj.Object) != len(again.Object) || reflect.TypeOf(obj.Object["data"]) != reflect.TypeOf(again.Object["data"]) {
			t.Errorf("%q is read as %v and, by way of YAML, as %v", text, obj.Object, again.Object)
		}
	})
}
