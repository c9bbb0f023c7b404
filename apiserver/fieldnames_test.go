package apiserver

import (
	"testing"

	"k8s.io/apimachinery/pkg/fields"

	"github.com/coxswain/cox/api"
)

// Which fields a kind can be selected by, and how another is refused, follows
// from its row.
func TestSelectableFields(t *testing.T) {
	plain := &resource{kind: &kind{Kind: &api.Kind{}}, view: &api.View{}}
	some := &resource{kind: &kind{Kind: &api.Kind{FieldNames: []string{"type"}}}, view: &api.View{}}
	own := &resource{kind: &kind{Kind: &api.Kind{FieldNames: []string{"type"}, UnknownField: "field label %q not supported for Job"}}, view: &api.View{}}
	without := &resource{kind: &kind{Kind: &api.Kind{Namespaced: true, FieldNames: []string{"type"}, NoNamespaceField: true}}, view: &api.View{}}
	within := &resource{kind: &kind{Kind: &api.Kind{Namespaced: true, FieldNames: []string{"type"}}}, view: &api.View{}}
	for _, c := range []struct {
		res         *resource
		field, want string
	}{
		{plain, "metadata.name", ""}, {plain, "metadata.namespace", ""}, {some, "type", ""}, {some, "metadata.name", ""},
		{plain, "x", `"x" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{some, "x", "field label not supported: x"}, {some, "metadata.namespace", "field label not supported: metadata.namespace"},
		{within, "metadata.namespace", ""}, {without, "metadata.namespace", "field label not supported: metadata.namespace"},
		{own, "x", `field label "x" not supported for Job`},
	} {
		got := ""
		if err := c.res.checkFields(fields.OneTermEqualSelector(c.field, "v")); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.field, got, c.want)
		}
	}
}
