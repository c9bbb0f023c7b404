package builtin

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Every row must be complete enough for the generic handler: its types are in
// the scheme under the names it gives, and it is served somewhere.
func TestRows(t *testing.T) {
	table, err := New()
	if err != nil {
		t.Fatal(err)
	}
	prefixes := map[string]string{}
	for _, k := range table.Kinds {
		t.Run(k.GR().String(), func(t *testing.T) {
			if len(k.Views) == 0 {
				t.Error("no served view")
			}
			for _, v := range k.Views {
				obj := v.New()
				gvks, _, err := table.Scheme.ObjectKinds(obj)
				if err != nil {
					t.Fatal(err)
				}
				if gvks[0] != v.GroupVersionKind {
					t.Errorf("New makes %v, the view is %v", gvks[0], v.GroupVersionKind)
				}
				if _, ok := obj.(metav1.Object); !ok && k.Prefix != "" {
					t.Errorf("%T has no metadata", obj)
				}
				if !table.Scheme.Recognizes(v.GroupVersion().WithKind("ListOptions")) {
					t.Errorf("%v has no ListOptions", v.GroupVersion())
				}
				if k.Prefix != "" {
					list := v.GroupVersion().WithKind(k.HubListKind)
					if got, _, err := table.Scheme.ObjectKinds(v.NewList()); err != nil || got[0] != list {
						t.Errorf("NewList makes %v (%v), want %v", got, err, list)
					}
				}
				if (v.ToHub == nil) != (v.FromHub == nil) || (v.ToHub == nil && v.GroupVersionKind.Kind == k.Hub.Kind && v.GroupVersion() != k.Hub.GroupVersion() && k.Hub.Group == v.Group) {
					t.Errorf("%v has no conversion", v.GroupVersionKind)
				}
			}
			if k.Prefix == "" {
				return
			}
			if other := prefixes[k.Prefix]; other != "" {
				t.Errorf("prefix %s belongs to %s", k.Prefix, other)
			}
			prefixes[k.Prefix] = k.GR().String()
			if _, _, err := table.Scheme.ObjectKinds(k.New()); err != nil {
				t.Error(err)
			}
		})
	}
}
