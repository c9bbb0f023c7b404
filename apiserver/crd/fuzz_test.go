package crd

import (
	"encoding/json"
	"reflect"
	"testing"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/coxswain/cox/api/apiextensions"
	"github.com/coxswain/cox/internal/warp"
)

var fuzzSchemas = []string{
	`{"type":"object","properties":{"spec":{"type":"object","default":{"replicas":1,"mode":"a"},"required":["replicas"],"properties":{"replicas":{"type":"integer","minimum":0,"default":1},"mode":{"type":"string","maxLength":4,"enum":["a","b"],"default":"a"},"quantity":{"x-kubernetes-int-or-string":true,"pattern":"^[0-9]+%?$"},"list":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],"items":{"type":"object","required":["name"],"properties":{"name":{"type":"string","maxLength":8},"port":{"type":"integer","format":"int32"}}}},"set":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},"free":{"type":"object","x-kubernetes-preserve-unknown-fields":true},"map":{"type":"object","additionalProperties":{"type":"number","multipleOf":0.5}},"when":{"type":"string","format":"date-time","nullable":true}},"x-kubernetes-validations":[{"rule":"self.replicas < 10 || self.mode == 'b'","messageExpression":"'no ' + self.mode"},{"rule":"self.mode == oldSelf.mode"}]},"status":{"type":"object","properties":{"replicas":{"type":"integer"},"selector":{"type":"string"}}}}}`,
	`{"type":"object","properties":{"spec":{"type":"object","properties":{"template":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true},"any":{"x-kubernetes-preserve-unknown-fields":true,"anyOf":[{"type":"integer"},{"type":"string"}]},"one":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"oneOf":[{"required":["a"]},{"required":["b"]}],"not":{"required":["a","b"]}},"deep":{"type":"array","maxItems":3,"items":{"type":"array","items":{"type":"object","properties":{"x":{"type":"boolean","default":true}}}}}}}}}`,
	`{"type":"object","x-kubernetes-preserve-unknown-fields":true}`,
}

const fuzzObject = `{"apiVersion":"example.com/v1","kind":"A","metadata":{"name":"a","namespace":"n","uid":"u","labels":{"a":"b"},"annotations":{"c":"d"}},"spec":{"replicas":3,"mode":"a","quantity":"5%","list":[{"name":"x","port":80},{"name":"y"}],"set":["a","b"],"free":{"a":[1,null]},"map":{"a":1.5},"when":"2020-01-01T00:00:00Z","template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}},"any":1,"one":{"a":"x"},"deep":[[{}],[{"x":false}]]},"status":{"replicas":1,"selector":"a=b"}}`

func parsed(t testing.TB, text string) (v any) {
	t.Helper()
	if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// spoilt is v changed as how says, as a decoder makes it.
func spoilt(t testing.TB, v any, how []byte) any {
	t.Helper()
	text, err := json.Marshal(warp.Value(v, how))
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, string(text))
}

// accepted is a definition with this schema, nil if it would be refused.
func accepted(schema any) *definition {
	text, err := json.Marshal(schema)
	if err != nil {
		return nil
	}
	props := &extv1.JSONSchemaProps{}
	if json.Unmarshal(text, props) != nil {
		return nil
	}
	replicas := ".status.selector"
	names := extv1.CustomResourceDefinitionNames{Plural: "as", Singular: "a", Kind: "A", ListKind: "AList"}
	version := func(name string) extv1.CustomResourceDefinitionVersion {
		return extv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: name == "v1", Schema: &extv1.CustomResourceValidation{OpenAPIV3Schema: props.DeepCopy()},
			Subresources: &extv1.CustomResourceSubresources{
				Status: &extv1.CustomResourceSubresourceStatus{},
				Scale:  &extv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas", LabelSelectorPath: &replicas},
			},
			AdditionalPrinterColumns: []extv1.CustomResourceColumnDefinition{
				{Name: "I", Type: "integer", JSONPath: ".spec.replicas"}, {Name: "S", Type: "string", JSONPath: ".spec.list[*].name"},
				{Name: "D", Type: "date", JSONPath: ".spec.when"}, {Name: "B", Type: "boolean", JSONPath: ".spec.deep[0][0].x"},
			},
		}
	}
	d := &extv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "as.example.com"},
		Spec: extv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: extv1.NamespaceScoped, Names: names, Conversion: &extv1.CustomResourceConversion{Strategy: extv1.NoneConverter},
			Versions: []extv1.CustomResourceDefinitionVersion{version("v1"), version("v2")},
		},
	}
	d.Status.AcceptedNames, d.Status.StoredVersions = names, []string{"v1"}
	if len(apiextensions.Validate(d)) > 0 {
		return nil
	}
	out, err := newDefinition(d, nil)
	if err != nil {
		return nil
	}
	return out
}

// FuzzObjects takes custom objects, and the schemas of their definitions, the
// way of a write. None makes a step fail, and what has been pruned and
// defaulted stays as it is when it is read.
func FuzzObjects(f *testing.F) {
	var schemas []any
	for i, text := range fuzzSchemas {
		schemas = append(schemas, parsed(f, text))
		if accepted(schemas[i]) == nil {
			f.Fatalf("the schema is refused: %s", text)
		}
		for _, how := range []string{"", "\x01\x02\x01\x03\x09", "\x03\x01\x04\x01\x05\x09\x02\x06"} {
			f.Add(uint8(i), []byte{}, []byte(how), []byte{1, 1, 2})
			f.Add(uint8(i), []byte(how), []byte(how), []byte{1, 3, 1})
		}
	}
	object := parsed(f, fuzzObject)
	f.Fuzz(func(t *testing.T, which uint8, schema, first, second []byte) {
		d := accepted(spoilt(t, schemas[int(which)%len(schemas)], schema))
		if d == nil {
			return
		}
		row := d.row()
		made := func(how []byte) runtime.Object {
			m, ok := spoilt(t, object, how).(map[string]any)
			u := &unstructured.Unstructured{Object: m}
			if !ok || u.GetAPIVersion() != "example.com/v1" || u.GetKind() != "A" {
				return nil
			}
			if _, err := row.Views[0].Prune(u); err != nil {
				return nil
			}
			again := u.DeepCopy()
			if _, err := row.Views[0].Prune(again); err != nil || !reflect.DeepEqual(again.Object, u.Object) {
				t.Errorf("pruned and defaulted %v, and then %v (%v)", u.Object, again.Object, err)
			}
			return u
		}
		old := made(first)
		if old == nil {
			return
		}
		row.Strategy.PrepareCreate(old)
		errs := row.Views[0].Check(old, nil)
		for _, v := range row.Views {
			if out, err := v.FromHub(old); err == nil {
				v.Cells(out)
			}
		}
		if scale := row.Subresources["scale"].Project; scale != nil {
			if in, err := scale.Get(old); err == nil {
				_ = scale.Set(old.DeepCopyObject(), in)
			}
		}
		now := made(second)
		if now == nil || len(errs) > 0 {
			return
		}
		row.Strategy.PrepareUpdate(now, old)
		row.Views[0].Check(now, old)
		if errs := row.Views[0].Check(old.DeepCopyObject(), old); len(errs) > 0 {
			t.Errorf("%v is accepted once, but not when it is written again: %v", old, errs)
		}
	})
}

// FuzzConverted reads answers of conversion webhooks: what is taken is the
// object that was asked about, in the version that was asked for.
func FuzzConverted(f *testing.F) {
	d := accepted(parsed(f, fuzzSchemas[0]))
	was := &unstructured.Unstructured{Object: parsed(f, fuzzObject).(map[string]any)}
	review := &extv1.ConversionReview{Request: &extv1.ConversionRequest{UID: "u", DesiredAPIVersion: "example.com/v2"}}
	review.APIVersion, review.Kind = "apiextensions.k8s.io/v1", "ConversionReview"
	good := parsed(f, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{"uid":"u","result":{"status":"Success"},"convertedObjects":[{"apiVersion":"example.com/v2","kind":"A","metadata":{"name":"a","namespace":"n","uid":"u","labels":{"x":"y"}},"spec":{"replicas":1}}]}}`)
	for _, how := range []string{"", "\x01\x02", "\x02\x01\x01\x04", "\x02\x01\x01\x02\x01\x03\x05", "\x02\x01\x02"} {
		f.Add([]byte(how))
	}
	to := d.versions["example.com/v2"]
	f.Fuzz(func(t *testing.T, how []byte) {
		text, err := json.Marshal(warp.Value(good, how))
		if err != nil {
			t.Fatal(err)
		}
		var back extv1.ConversionReview
		if json.Unmarshal(text, &back) != nil {
			return
		}
		objs, err := judge(review, &back)
		if err != nil {
			return
		}
		for _, o := range objs {
			u, err := accept(was, o.Raw, to)
			if err != nil {
				continue
			}
			if _, err := to.normalize(u, true); err != nil {
				continue
			}
			if u.GetName() != "a" || u.GetNamespace() != "n" || u.GetUID() != "u" || u.GetAPIVersion() != to.av || u.GetKind() != "A" {
				t.Errorf("%s is taken for %v", o.Raw, u.Object)
			}
			u.GetLabels()
			_ = u.DeepCopy()
			if _, err := u.MarshalJSON(); err != nil {
				t.Errorf("%s is taken, and cannot be shown: %v", o.Raw, err)
			}
		}
	})
}
