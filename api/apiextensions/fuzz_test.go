package apiextensions

import (
	"encoding/json"
	"testing"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzSchema validates definitions with any schema and any rule: none makes
// validation fail, and judging twice gives the same answer.
func FuzzSchema(f *testing.F) {
	for _, s := range []struct{ schema, rule, message string }{
		{`{"type":"object","properties":{"a":{"type":"string","maxLength":5}}}`, "self.a != 'b'", "'no ' + self.a"},
		{`{"type":"object","properties":{"l":{"type":"array","items":{"type":"integer"},"x-kubernetes-list-type":"set"}}}`, "self.l.all(x, x > 0)", ""},
		{`{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, "oldSelf == self", ""},
		{`{"type":"object","additionalProperties":{"type":"object","properties":{"d":{"type":"string","format":"date-time"}}}}`, "self.exists(k, self[k].d > timestamp('2020-01-01T00:00:00Z'))", ""},
		{`{"type":"object","properties":{"q":{"x-kubernetes-int-or-string":true,"default":"5%"}}}`, "quantity(string(self.q)).isGreaterThan(quantity('1'))", ""},
		{`{"type":"object","allOf":[{"properties":{"x":{"minimum":1}}}],"not":{"required":["y"]}}`, "((((", "1"},
		{`{"type":"array","items":{}}`, "self.map(x, self.map(y, self.map(z, x+y+z)))", ""},
	} {
		f.Add(s.schema, s.rule, s.message)
	}
	f.Fuzz(func(t *testing.T, schema, rule, message string) {
		if len(schema) > 4096 || len(rule) > 512 || len(message) > 256 {
			t.Skip("larger, not other")
		}
		props := &extv1.JSONSchemaProps{}
		if json.Unmarshal([]byte(schema), props) != nil {
			t.Skip("no schema")
		}
		props.XValidations = append(props.XValidations, extv1.ValidationRule{Rule: rule, MessageExpression: message})
		d := func() *extv1.CustomResourceDefinition {
			return &extv1.CustomResourceDefinition{
				ObjectMeta: metav1.ObjectMeta{Name: "as.example.com"},
				Spec: extv1.CustomResourceDefinitionSpec{
					Group: "example.com", Scope: extv1.NamespaceScoped,
					Names: extv1.CustomResourceDefinitionNames{Plural: "as", Singular: "a", Kind: "A", ListKind: "AList"},
					Versions: []extv1.CustomResourceDefinitionVersion{{
						Name: "v1", Served: true, Storage: true, Schema: &extv1.CustomResourceValidation{OpenAPIV3Schema: props.DeepCopy()},
					}},
				},
			}
		}
		first, second := Validate(d()), Validate(d())
		if len(first) != len(second) {
			t.Errorf("judged twice: %v, then %v", first, second)
		}
	})
}
