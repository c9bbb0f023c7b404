package apiextensions

import (
	"encoding/json"
	"strings"
	"testing"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
)

// TestStoredForm: a definition comes back from the store as it went in, and
// what has only one form for all versions is said once, as upstream does.
func TestStoredForm(t *testing.T) {
	schema := func(text string) *extv1.CustomResourceValidation {
		return &extv1.CustomResourceValidation{OpenAPIV3Schema: &extv1.JSONSchemaProps{
			Type: "object", Description: text, Default: &extv1.JSON{Raw: []byte(`{"a":1}`)},
			XValidations: extv1.ValidationRules{{Rule: "self.a > 0"}},
		}}
	}
	definition := func(versions ...extv1.CustomResourceDefinitionVersion) *extv1.CustomResourceDefinition {
		d := &extv1.CustomResourceDefinition{
			ObjectMeta: metav1.ObjectMeta{Name: "tabs.example.com", Generation: 3},
			Spec: extv1.CustomResourceDefinitionSpec{
				Group: "example.com", Scope: extv1.NamespaceScoped,
				Names:    extv1.CustomResourceDefinitionNames{Plural: "tabs", Kind: "Tab"},
				Versions: versions,
			},
			Status: extv1.CustomResourceDefinitionStatus{StoredVersions: []string{"v1"}},
		}
		SetDefaults(d)
		return d
	}
	columns := []extv1.CustomResourceColumnDefinition{{Name: "A", Type: "string", JSONPath: ".spec.a"}}
	one := extv1.CustomResourceDefinitionVersion{
		Name: "v1", Served: true, Storage: true, Schema: schema("x"), AdditionalPrinterColumns: columns,
		Subresources: &extv1.CustomResourceSubresources{Status: &extv1.CustomResourceSubresourceStatus{}},
	}
	other := *one.DeepCopy()
	other.Name, other.Storage, other.Schema = "v2", false, schema("y")
	hooked := definition(one, other)
	hooked.Spec.Conversion = &extv1.CustomResourceConversion{Strategy: extv1.WebhookConverter, Webhook: &extv1.WebhookConversion{
		ClientConfig:             &extv1.WebhookClientConfig{Service: &extv1.ServiceReference{Namespace: "a", Name: "b"}, CABundle: []byte("x")},
		ConversionReviewVersions: []string{"v1"},
	}}
	SetDefaults(hooked)
	kept := definition(one)
	kept.Spec.PreserveUnknownFields = true
	for name, c := range map[string]struct {
		in            *extv1.CustomResourceDefinition
		with, without []string
	}{
		"one version":     {definition(one), []string{`"version":"v1"`, `"validation":{"openAPIV3Schema"`, `"JSONPath":".spec.a"`, `"versions":[{"name":"v1","served":true,"storage":true}]`, `"preserveUnknownFields":false`}, []string{`"schema"`}},
		"two versions":    {definition(one, other), []string{`"schema":{"openAPIV3Schema"`, `"subresources":{"status":{}}`}, []string{`"validation"`}},
		"webhook":         {hooked, []string{`"webhookClientConfig"`, `"conversionReviewVersions":["v1"]`}, nil},
		"unknown is kept": {kept, []string{`"preserveUnknownFields":true`}, nil},
	} {
		before := c.in.DeepCopy()
		stored, err := toStored(c.in)
		if err != nil {
			t.Fatal(name, err)
		}
		text, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(name, err)
		}
		if !apiequality.Semantic.DeepEqual(before, c.in) {
			t.Errorf("%s: the definition changed: %s", name, cmp.Diff(before, c.in))
		}
		for _, want := range c.with {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: %s lacks %s", name, text, want)
			}
		}
		for _, not := range c.without {
			if strings.Contains(string(text), not) {
				t.Errorf("%s: %s has %s", name, text, not)
			}
		}
		empty, back := olderVersion(storedGVK)
		if err := json.Unmarshal(text, empty); err != nil {
			t.Fatal(name, err)
		}
		got, err := back(empty)
		if err != nil {
			t.Fatal(name, err)
		}
		if !apiequality.Semantic.DeepEqual(before, got) {
			t.Errorf("%s: came back different: %s", name, cmp.Diff(before, got))
		}
	}
}
