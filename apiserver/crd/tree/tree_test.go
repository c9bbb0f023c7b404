package tree

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	kjson "sigs.k8s.io/json"
)

func compile(t testing.TB, text string) *structural.Structural {
	t.Helper()
	var v1 extv1.JSONSchemaProps
	if err := json.Unmarshal([]byte(text), &v1); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var hub apiextensions.JSONSchemaProps
	if err := extv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&v1, &hub, nil); err != nil {
		t.Fatal(err)
	}
	s, err := structural.NewStructural(&hub)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func object(t testing.TB, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}

// settled is what the libraries make of an object.
func settled(obj map[string]any, s *structural.Structural, keep bool) map[string]any {
	out := runtime.DeepCopyJSON(obj)
	if bad, _ := objectmeta.CoerceWithOptions(nil, out, s, true, objectmeta.CoerceOptions{DropInvalidFields: true}); bad != nil {
		return nil
	}
	if !keep {
		pruning.PruneWithOptions(out, s, true, structural.UnknownFieldPathOptions{})
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(out, s)
	defaulting.Default(out, s)
	return out
}

// complaints are what the libraries find wrong.
func complaints(obj map[string]any, s *structural.Structural) []string {
	open := s.ToKubeOpenAPI()
	var out []string
	for _, e := range validate.NewSchemaValidator(open, nil, "", strfmt.Default).Validate(obj).Errors {
		out = append(out, e.Error())
	}
	for _, e := range listtype.ValidateListSetsAndMaps(nil, s, obj) {
		out = append(out, e.Error())
	}
	return out
}

// maker makes schemas and values that often suit them.
type maker struct{ *rand.Rand }

func (m maker) one(of ...string) string { return of[m.IntN(len(of))] }
func (m maker) often(n int) bool        { return m.IntN(n) == 0 }

func (m maker) bounds(kind string) string {
	out := ""
	add := func(s string, args ...any) {
		if m.often(4) {
			out += "," + fmt.Sprintf(s, args...)
		}
	}
	switch kind {
	case "string":
		add(`"maxLength":%d`, m.IntN(4))
		add(`"minLength":%d`, m.IntN(3))
		add(`"pattern":%q`, m.one("^a", "b+", "^[a-c]*$"))
		add(`"format":%q`, m.one("date-time", "ipv4", "int-or-string", "byte", "duration", "nonsense", "uuid", "date"))
		add(`"enum":["a","abc",""]`)
	case "integer", "number":
		add(`"minimum":%d`, m.IntN(3))
		add(`"maximum":%d,"exclusiveMaximum":%v`, m.IntN(9), m.often(2))
		add(`"multipleOf":2`)
		add(`"format":%q`, m.one("int32", "int64", "float", "double", "nonsense"))
		add(`"enum":[1,2]`)
	case "array":
		add(`"maxItems":%d`, m.IntN(4))
		add(`"minItems":%d`, m.IntN(2))
	case "object":
		add(`"maxProperties":%d`, m.IntN(5))
		add(`"minProperties":%d`, m.IntN(2))
		add(`"required":[%q]`, m.one("a", "b"))
	}
	return out
}

func (m maker) schema(depth int) string {
	kind := m.one("string", "integer", "number", "boolean", "object", "array", "object", "array", "either")
	if depth == 0 {
		kind = m.one("string", "integer", "number", "boolean", "either")
	}
	extra := ""
	if m.often(6) {
		extra += `,"nullable":true`
	}
	if m.often(8) && kind != "either" {
		branch := func() string { return "{" + (`"description":"x"` + m.bounds(kind)) + "}" }
		extra += fmt.Sprintf(`,%q:[%s,%s]`, m.one("allOf", "anyOf", "oneOf"), branch(), branch())
	}
	if m.often(12) && kind != "either" {
		extra += `,"not":{"description":"x"` + m.bounds(kind) + "}"
	}
	switch kind {
	case "either":
		return `{"x-kubernetes-int-or-string":true` + extra + m.one("", `,"anyOf":[{"type":"integer"},{"type":"string"}]`, `,"pattern":"^1"`) + `}`
	case "string":
		if m.often(3) {
			extra += `,"default":` + m.one(`"a"`, `"abc"`)
		}
	case "array":
		item := m.schema(depth - 1)
		list := m.one("", "", `,"x-kubernetes-list-type":"set"`, `,"x-kubernetes-list-type":"atomic"`)
		if m.often(4) {
			item = `{"type":"object","required":["a"],"properties":{"a":{"type":"string"},"b":{"type":"integer","default":1},"c":` + m.schema(depth-1) + `}}`
			list = `,"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":[` + m.one(`"a"`, `"a","b"`) + `]`
		}
		extra += list + `,"items":` + item
	case "object":
		if m.often(5) {
			extra += `,"x-kubernetes-preserve-unknown-fields":true`
		}
		if m.often(4) {
			extra += `,"additionalProperties":` + m.schema(depth-1)
		} else {
			extra += `,"properties":{"a":` + m.schema(depth-1) + `,"b":` + m.schema(depth-1) + `,"c":` + m.schema(depth-1) + `}`
		}
		if m.often(4) {
			extra += `,"default":{}`
		}
	}
	return `{"type":"` + kind + `"` + m.bounds(kind) + extra + `}`
}

func (m maker) value(s *structural.Structural, depth int) any {
	if m.often(20) || s == nil {
		return []any{nil, "a", int64(1), 1.0, true, map[string]any{}, []any{}, map[string]any{"z": nil}}[m.IntN(8)]
	}
	kind := s.Type
	if s.XIntOrString {
		kind = m.one("string", "integer")
	}
	switch kind {
	case "string":
		return m.one("", "a", "abc", "abcab", "b", "1", "2020-01-01", "1.2.3.4", "1h", "ä")
	case "integer":
		return []any{int64(0), int64(1), int64(2), int64(7), int64(1) << 40, int64(1)<<62 + 1}[m.IntN(6)]
	case "number":
		return []any{int64(2), 1.5, 2.0, -1.0}[m.IntN(4)]
	case "boolean":
		return m.often(2)
	case "array":
		out := []any{}
		for range m.IntN(4) {
			out = append(out, m.value(s.Items, depth-1))
		}
		return out
	}
	out := map[string]any{}
	for _, name := range []string{"a", "b", "c"} {
		if m.often(3) {
			continue
		}
		if p, ok := s.Properties[name]; ok {
			out[name] = m.value(&p, depth-1)
		} else if s.AdditionalProperties != nil {
			out[name] = m.value(s.AdditionalProperties.Structural, depth-1)
		}
	}
	if m.often(10) {
		out["unknown"] = map[string]any{"x": int64(1)}
	}
	return out
}

// TestAsTheLibraries holds the tree against what it stands in for: it may say
// no where they say yes, but not often, and never the reverse.
func TestAsTheLibraries(t *testing.T) {
	var yes, all, validYes, validAll int
	for seed := range uint64(1000) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		text := `{"type":"object","properties":{"metadata":{"type":"object"},"spec":` + m.schema(3) + `}}`
		s := compile(t, text)
		keep := m.often(10)
		tree := Compile(s, keep)
		spec := s.Properties["spec"]
		for range 6 {
			obj := map[string]any{"apiVersion": "a/v1", "kind": "K", "metadata": map[string]any{"name": "n"}, "spec": m.value(&spec, 3)}
			want := settled(obj, s, keep)
			got := runtime.DeepCopyJSON(obj)
			done := tree.Settle(got)
			all++
			if done {
				yes++
			}
			if done && !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: settled as\n %v\nwant\n %v\nof %v\nby %s", seed, got, want, obj, text)
			}
			if again := settled(got, s, keep); !done && !reflect.DeepEqual(again, want) {
				t.Fatalf("seed %d: what was begun led the libraries astray:\n %v\nwant\n %v\nof %v\nby %s", seed, again, want, obj, text)
			}
			errs := complaints(want, s)
			ok := tree.Valid(want)
			if len(errs) == 0 {
				validAll++
				if ok {
					validYes++
				}
			} else if ok {
				t.Fatalf("seed %d: taken as valid: %v\nby %s\nbut %v", seed, want, text, errs)
			}
		}
	}
	t.Logf("settled %d of %d, valid %d of %d", yes, all, validYes, validAll)
	if yes < all/2 || validYes < validAll*8/10 {
		t.Errorf("settled %d of %d, valid %d of %d: most should be", yes, all, validYes, validAll)
	}
}

// TestMetadata says which metadata needs no second look.
func TestMetadata(t *testing.T) {
	s := compile(t, `{"type":"object","properties":{"spec":{"type":"object"}}}`)
	tree := Compile(s, false)
	for text, plain := range map[string]bool{
		`{"name":"a","namespace":"b","uid":"u","resourceVersion":"1","generation":1,"creationTimestamp":"2020-01-02T03:04:05Z"}`: true,
		`{"name":"a","labels":{"a":"b"},"annotations":{"a":""},"finalizers":["x"]}`:                                              true,
		`{"name":"a","labels":{"a":1}}`:         false,
		`{"name":"a","labels":{}}`:              false,
		`{"name":"a","labels":null}`:            false,
		`{"name":""}`:                           false,
		`{"name":1}`:                            false,
		`{"name":"a","creationTimestamp":null}`: false,
		`{"name":"a","creationTimestamp":"2020-01-02T03:04:05+02:00"}`: false,
		`{"name":"a","creationTimestamp":"0001-01-01T00:00:00Z"}`:      false,
		`{"name":"a","generation":1.5}`:                                false,
		`{"name":"a","unknown":1}`:                                     false,
		`{"name":"a","finalizers":[1]}`:                                false,
		`{"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"K","name":"n","uid":"u","controller":true}]}`:                                                           true,
		`{"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"K","name":"n"}]}`:                                                                                       false,
		`{"name":"a","managedFields":[{"manager":"m","operation":"Apply","apiVersion":"v1","time":"2020-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:a":{}}}]}`: true,
		`{"name":"a","managedFields":[{"manager":"m","fieldsV1":null}]}`:                                                                                                   false,
	} {
		obj := object(t, `{"apiVersion":"a/v1","kind":"K","metadata":`+text+`}`)
		want := settled(obj, s, false)
		if got := tree.Settle(obj); got != plain {
			t.Errorf("%s: settled %v, want %v", text, got, plain)
		}
		if plain && !reflect.DeepEqual(obj, want) {
			t.Errorf("%s: the libraries make %v of it", text, want)
		}
	}
}

// TestEmbedded: the metadata of an object within another has its own rules.
func TestEmbedded(t *testing.T) {
	tree := Compile(compile(t, `{"type":"object","properties":{"in":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}}}`), false)
	if obj := object(t, `{"in":{"apiVersion":"v1","kind":"K","metadata":{"name":1}}}`); tree.Settle(obj) || tree.Valid(obj) {
		t.Error("the embedded object was not left to the libraries")
	}
	if !tree.Settle(object(t, `{"metadata":{"name":"a"}}`)) {
		t.Error("an object without an embedded one was not settled")
	}
}
