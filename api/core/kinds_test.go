package core

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
)

// reference finds the published facts about 1.36, or skips the test.
func reference(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("COX_REFERENCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "reference")
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("no reference data: %v", err)
	}
	return raw
}

// TestDiscovery holds names, scope, short names, categories, subresources and
// verbs against the published discovery document of core/v1.
func TestDiscovery(t *testing.T) {
	var want metav1.APIResourceList
	if err := json.Unmarshal(reference(t, "discovery/api__v1.json"), &want); err != nil {
		t.Fatal(err)
	}
	got := map[string]metav1.APIResource{}
	for _, k := range Kinds(podspec.Gates{}) {
		for _, r := range discovered(k) {
			if _, dup := got[r.Name]; dup {
				t.Errorf("%s: served twice", r.Name)
			}
			got[r.Name] = r
		}
	}
	for _, w := range want.APIResources {
		g, ok := got[w.Name]
		if !ok {
			t.Errorf("%s: not served", w.Name)
			continue
		}
		delete(got, w.Name)
		w.StorageVersionHash = ""
		sort.Strings(w.Verbs)
		sort.Strings(g.Verbs)
		if a, b := asJSON(t, g), asJSON(t, w); a != b {
			t.Errorf("%s:\n got %s\nwant %s", w.Name, a, b)
		}
	}
	for name := range got {
		t.Errorf("%s: served but not upstream", name)
	}
}

func asJSON(t *testing.T, v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func discovered(k *api.Kind) []metav1.APIResource {
	verbs := k.Verbs
	if verbs == nil {
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	out := []metav1.APIResource{{
		Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Hub.Kind,
		Verbs: slices.Clone(verbs), ShortNames: k.ShortNames, Categories: k.Categories,
	}}
	for name, s := range k.Subresources {
		gvk := k.Hub
		switch {
		case s.Project != nil:
			gvk = s.Project.GVK
		case s.Action != nil:
			gvk = s.Action.GVK
		case s.Connect != nil && name != "log": // log is listed as a part of the pod
			gvk = s.Connect.Options
		}
		r := metav1.APIResource{Name: k.Resource + "/" + name, Namespaced: k.Namespaced, Kind: gvk.Kind, Verbs: slices.Clone(s.Verbs)}
		if r.Verbs == nil {
			r.Verbs = []string{"get", "patch", "update"}
		}
		if gvk.GroupVersion() != k.Hub.GroupVersion() {
			r.Group, r.Version = gvk.Group, gvk.Version
		}
		out = append(out, r)
	}
	return out
}

// TestRows checks what a table needs of every row.
func TestRows(t *testing.T) {
	for _, k := range Kinds(podspec.Gates{}) {
		if k.New() == nil || k.NewList() == nil {
			t.Errorf("%s: no constructors", k.Resource)
		}
		if k.Cells != nil {
			if n := len(k.Cells(k.New())); n != len(k.Columns) {
				t.Errorf("%s: %d cells in %d columns", k.Resource, n, len(k.Columns))
			}
			for i, c := range k.Cells(k.New()) {
				switch c.(type) {
				case string, int64, bool:
				default:
					t.Errorf("%s: cell %d is a %T", k.Resource, i, c)
				}
			}
		}
		if k.Fields != nil {
			set := k.Fields(k.New())
			for _, name := range k.FieldNames {
				if _, ok := set[name]; !ok {
					t.Errorf("%s: field %q has no value", k.Resource, name)
				}
			}
			if len(set) != len(k.FieldNames) {
				t.Errorf("%s: fields %v, names %v", k.Resource, set, k.FieldNames)
			}
		}
		for name, s := range k.Subresources {
			n := 0
			for _, set := range []bool{s.Object != nil, s.Project != nil, s.Action != nil, s.Connect != nil} {
				if set {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s/%s: %d ways to serve it", k.Resource, name, n)
			}
		}
	}
}

// TestPrefixes holds the storage paths that differ from the resource names.
func TestPrefixes(t *testing.T) {
	want := map[string]string{
		"nodes": "minions", "services": "services/specs", "endpoints": "services/endpoints",
		"replicationcontrollers": "controllers", "bindings": "", "componentstatuses": "",
	}
	for _, k := range Kinds(podspec.Gates{}) {
		p, ok := want[k.Resource]
		if !ok {
			p = k.Resource
		}
		if k.Prefix != p {
			t.Errorf("%s: prefix %q, want %q", k.Resource, k.Prefix, p)
		}
	}
}

// TestDefaultsAreIdempotent runs every row's defaults twice over an empty
// object.
func TestDefaultsAreIdempotent(t *testing.T) {
	for _, k := range Kinds(podspec.Gates{}) {
		if k.Strategy.Default == nil {
			continue
		}
		once, twice := k.New(), k.New()
		k.Strategy.Default(once)
		k.Strategy.Default(twice)
		k.Strategy.Default(twice)
		if a, b := asJSON(t, once), asJSON(t, twice); a != b {
			t.Errorf("%s: once %s, twice %s", k.Resource, a, b)
		}
	}
}
