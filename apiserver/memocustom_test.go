package apiserver

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// customModel has every way in which a schema says that fields are merged.
const customModel = `{"type":"object","x-kubernetes-group-version-kind":[{"group":"a.example","version":"v1","kind":"Thing"}],"properties":{
"apiVersion":{"type":"string"},"kind":{"type":"string"},"metadata":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
"status":{"type":"object","properties":{"x":{"type":"string"}}},
"spec":{"type":"object","properties":{
 "s":{"type":"string"},"n":{"type":"integer"},
 "m":{"type":"object","additionalProperties":{"type":"string"}},
 "atomic":{"type":"object","x-kubernetes-map-type":"atomic","additionalProperties":{"type":"string"}},
 "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
 "list":{"type":"array","items":{"type":"string"}},
 "set":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
 "map":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
   "items":{"type":"object","properties":{"k":{"type":"string"},"v":{"type":"string"}}}}}}}}`

// customResource is a kind made at run time.
func customResource(t *testing.T) *resource {
	t.Helper()
	var model spec.Schema
	if err := json.Unmarshal([]byte(customModel), &model); err != nil {
		t.Fatal(err)
	}
	types, err := managedfields.NewTypeConverter(map[string]*spec.Schema{"example.a.v1.Thing": &model}, false)
	if err != nil {
		t.Fatal(err)
	}
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	gvk := schema.GroupVersionKind{Group: "a.example", Version: "v1", Kind: "Thing"}
	empty := func() runtime.Object {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "a.example/v1", "kind": "Thing"}}
	}
	same := func(o runtime.Object) (runtime.Object, error) { return o, nil }
	k := &api.Kind{
		Hub: gvk, Resource: "things", Prefix: "a.example/things", Namespaced: true, New: empty,
		Schema:       func() (managedfields.TypeConverter, error) { return types, nil },
		Views:        []api.View{{GroupVersionKind: gvk, New: empty, ToHub: same, FromHub: same}},
		Subresources: map[string]api.Subresource{"status": {Object: &api.Strategy{}}},
	}
	s := &Server{cfg: Config{Table: table, Store: func(*api.Kind) store.Interface { return nil }}, log: slog.New(slog.DiscardHandler), now: time.Now}
	return newResource(s, newKind(s, k), &k.Views[0])
}

// someThing is an object, or a configuration of one, with a few fields.
func someThing(rnd *rand.Rand) *unstructured.Unstructured {
	word := func() string { return []string{"a", "b", "c"}[rnd.IntN(3)] }
	words := func() (out []any) {
		out = []any{}
		for _, w := range []string{"a", "b", "c"} {
			if rnd.IntN(2) == 0 {
				out = append(out, w)
			}
		}
		return out
	}
	texts := func() any {
		m := map[string]any{}
		for range rnd.IntN(3) {
			m[word()] = word()
		}
		return m
	}
	in := map[string]any{}
	set := func(name string, v any) {
		if rnd.IntN(3) == 0 {
			in[name] = v
		}
	}
	set("s", word())
	set("n", int64(rnd.IntN(2)))
	set("m", texts())
	set("atomic", texts())
	set("free", map[string]any{"x": texts(), "y": []any{word()}})
	set("list", words())
	set("set", words())
	keyed := []any{}
	for _, k := range words() {
		keyed = append(keyed, map[string]any{"k": k, "v": word()})
	}
	set("map", keyed)
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "a.example/v1", "kind": "Thing", "metadata": map[string]any{"name": "n"}}}
	if rnd.IntN(8) > 0 {
		u.Object["spec"] = in
	}
	if rnd.IntN(2) == 0 {
		u.SetLabels(map[string]string{word(): word()})
	}
	if rnd.IntN(4) == 0 {
		u.Object["status"] = map[string]any{"x": word()}
	}
	return u
}

// TestCustomMemoIsTheLibrary holds what is remembered of custom objects'
// changes against what the library makes of each.
func TestCustomMemoIsTheLibrary(t *testing.T) {
	r := customResource(t)
	tr := r.tracking("")
	if tr.fm == nil || tr.memo == nil {
		t.Fatal("fields are not tracked")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	hits, now := 0, metav1.Unix(1e9, 0)
	for n := range 1000 {
		live := r.New()
		if n%2 > 0 {
			live = someThing(rnd)
			accessor(live).SetUID("x")
			accessor(live).SetManagedFields(created(r, tr, live, fmt.Sprint("m", rnd.IntN(2))))
		}
		obj := someThing(rnd)
		if n%4 == 3 { // one field at a time
			one := obj
			obj = live.DeepCopyObject().(*unstructured.Unstructured)
			obj.Object["spec"] = one.Object["spec"]
		}
		obj.SetUID(accessor(live).GetUID())
		manager := fmt.Sprint("m", rnd.IntN(2))
		want := library(r, tr, live, obj, manager)
		computed := false
		got, ok := tr.memo.Update(live, obj, entriesOf(live), manager, now, func(before []metav1.ManagedFieldsEntry, same bool) []metav1.ManagedFieldsEntry {
			computed = true
			return tr.compute(live, obj, manager)(before, same)
		})
		if !ok {
			continue
		}
		if !computed {
			hits++
		}
		out := obj.DeepCopy()
		setEntries(out, got, live, entriesOf(live))
		if !sameEntries(out.GetManagedFields(), want) || !sameEntries(entriesOf(out), want) {
			t.Fatalf("%d: %v, want\n%v\nof %v\nto %v", n, out.GetManagedFields(), want, live, obj)
		}
	}
	if hits < 30 {
		t.Errorf("only %d changes were remembered", hits)
	}
}

// TestCustomAppliesAreTheLibrary does so for server-side apply.
func TestCustomAppliesAreTheLibrary(t *testing.T) {
	r := customResource(t)
	tr := r.tracking("")
	rnd := rand.New(rand.NewPCG(3, 4))
	known, hits := 0, 0
	for n := range 300 {
		live := runtime.Object(someThing(rnd))
		accessor(live).SetManagedFields(created(r, tr, live, "creator"))
		accessor(live).SetUID("x")
		conf, manager := someThing(rnd), []string{"a", "b"}[rnd.IntN(2)]
		for range 3 {
			if rnd.IntN(2) == 0 {
				conf = someThing(rnd)
			}
			force := rnd.IntN(2) == 0
			u := &updating{transaction: &transaction{call: &call{srv: r.srv, res: r, req: &client.Request{Options: client.Options{FieldManager: manager, Force: force}}}}}
			was := live.DeepCopyObject()
			want, err := tr.fm.Apply(was, conf.DeepCopy(), manager, force)
			size := tr.memo.Size()
			got, ok := u.applyTyped(live, conf)
			if err != nil {
				if ok {
					t.Fatalf("%d: applied what the library refuses: %v", n, err)
				}
				continue
			}
			if ok {
				known++
				if size == tr.memo.Size() {
					hits++
				}
				if !sameEntries(accessor(got).GetManagedFields(), accessor(want).GetManagedFields()) {
					t.Fatalf("%d: %v applied to %v:\n%v, want\n%v", n, conf, live, accessor(got).GetManagedFields(), accessor(want).GetManagedFields())
				}
				a, b := got.DeepCopyObject(), want.DeepCopyObject()
				accessor(a).SetManagedFields(nil)
				accessor(b).SetManagedFields(nil)
				if !apiequality.Semantic.DeepEqual(a, b) {
					t.Fatalf("%d: %v applied to %v gives\n%v, want\n%v", n, conf, live, a, b)
				}
			}
			live = want.DeepCopyObject()
		}
	}
	if known < 60 || hits < 6 {
		t.Errorf("%d were known, %d of them by memory", known, hits)
	}
}

// Who writes the status of a custom object owns nothing of its metadata, which
// stays as it was.
func TestCustomStatusOwnsNoMetadata(t *testing.T) {
	all := fieldpath.NewSet(fieldpath.MakePathOrDie("metadata", "labels", "a"), fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "x"))
	for _, custom := range []bool{true, false} {
		r := customResource(t)
		r.custom = custom
		got := r.resetFields("status")["a.example/v1"].Filter(all)
		if got.Has(fieldpath.MakePathOrDie("metadata", "labels", "a")) == custom || got.Has(fieldpath.MakePathOrDie("spec")) || !got.Has(fieldpath.MakePathOrDie("status", "x")) {
			t.Errorf("custom %v: %s", custom, got)
		}
	}
}
