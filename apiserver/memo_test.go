package apiserver

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/randfill"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/wire"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store"
)

// TestMemoIsTheLibrary changes objects of every kind at random, few fields at
// a time and with few values, so that changes of one description recur on
// different objects, and holds what is remembered against what the library
// makes of each.
func TestMemoIsTheLibrary(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{Table: table, Store: func(*api.Kind) store.Interface { return nil }}, log: slog.New(slog.DiscardHandler)}
	rounds, hits := 100, 0
	if testing.Short() {
		rounds = 10
	}
	for _, k := range table.Kinds {
		if k.Prefix == "" {
			continue
		}
		ks := newKind(s, k)
		for i := range k.Views {
			r := newResource(s, ks, &k.Views[i])
			tr := r.tracking("")
			if tr.fm == nil || tr.memo == nil {
				continue
			}
			hits += compareMemo(t, r, tr, rounds)
		}
	}
	if hits < 10*rounds {
		t.Errorf("only %d changes were remembered", hits)
	}
}

func compareMemo(t *testing.T, r *resource, tr *tracker, rounds int) (hits int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, uint64(len(r.Resource))))
	now := metav1.Unix(1e9, 0)
	for n := range rounds {
		live := r.New()
		if n%2 > 0 {
			live = sprinkled(r, rnd, r.New())
			accessor(live).SetUID("x")
			accessor(live).SetManagedFields(created(r, tr, live, fmt.Sprint("m", rnd.IntN(2))))
		}
		obj := sprinkled(r, rnd, live.DeepCopyObject())
		accessor(obj).SetUID(accessor(live).GetUID())
		manager := fmt.Sprint("m", rnd.IntN(2))
		want := library(r, tr, live, obj, manager)
		computed := false
		kinded(r, live, obj)
		got, ok := tr.memo.Update(live, obj, accessor(live).GetManagedFields(), manager, now, func(before []metav1.ManagedFieldsEntry, same bool) []metav1.ManagedFieldsEntry {
			computed = true
			return tr.compute(live, obj, manager)(before, same)
		})
		if !ok {
			continue
		}
		if !computed {
			hits++
		}
		for i := range got {
			got[i].Time = nil
		}
		for i := range want {
			want[i].Time = nil
		}
		if !sameEntries(got, want) {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			l, _ := json.Marshal(live)
			o, _ := json.Marshal(obj)
			t.Fatalf("%s: remembered %s\nlibrary %s\nof %s\nto %s", r.gvr, a, b, l, o)
		}
	}
	return hits
}

// TestAppliesAreTheLibrary applies configurations of a few fields to
// ConfigMaps and Pods with changing values, and holds object and owners against
// the library's.
func TestAppliesAreTheLibrary(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{Table: table, Store: func(*api.Kind) store.Interface { return nil }}, log: slog.New(slog.DiscardHandler), now: time.Now}
	rnd := rand.New(rand.NewPCG(3, 4))
	known, hits := 0, 0
	for _, k := range table.Kinds {
		if k.GR().Resource != "configmaps" && k.GR() != (schema.GroupResource{Resource: "pods"}) {
			continue
		}
		r := newResource(s, newKind(s, k), &k.Views[0])
		for range 400 {
			fast, hit := applyBoth(t, r, rnd)
			if fast {
				known++
			}
			if hit {
				hits++
			}
		}
	}
	if known < 100 || hits < 50 {
		t.Errorf("%d of 800 were known, %d of them by memory", known, hits)
	}
}

func applyBoth(t *testing.T, r *resource, rnd *rand.Rand) (fast, hit bool) {
	t.Helper()
	tr := r.tracking("")
	word := func() string { return []string{"a", "b", "c"}[rnd.IntN(3)] }
	live := r.New()
	m := accessor(live)
	m.SetName("n")
	m.SetLabels(map[string]string{word(): word(), word(): word()})
	switch o := live.(type) {
	case *corev1.ConfigMap:
		o.Data = map[string]string{word(): word()}
	case *corev1.Pod:
		o.Spec.NodeSelector = map[string]string{word(): word(), word(): word()} // atomic
		o.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	}
	m.SetManagedFields(created(r, tr, live, "creator"))
	m.SetUID("x")
	config := func() *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetGroupVersionKind(r.view.GroupVersionKind)
		u.SetName("n")
		u.SetLabels(map[string]string{word(): word()})
		switch {
		case rnd.IntN(2) == 0:
		case r.Resource == "pods":
			_ = unstructured.SetNestedStringMap(u.Object, map[string]string{word(): word()}, "spec", "nodeSelector")
		default:
			_ = unstructured.SetNestedStringMap(u.Object, map[string]string{word(): word()}, "data")
		}
		return u
	}
	for range 3 {
		conf, manager, force := config(), word(), rnd.IntN(2) == 0
		req := &client.Request{Options: client.Options{FieldManager: manager, Force: force}}
		u := &updating{transaction: &transaction{call: &call{srv: r.srv, res: r, req: req}}}
		was := live.DeepCopyObject()
		kinded(r, was)
		want, err := tr.fm.Apply(was, conf.DeepCopy(), manager, force)
		size := tr.memo.Size()
		got, ok := u.applyTyped(live, conf)
		if err != nil {
			if ok {
				t.Fatalf("applied what the library refuses: %v", err)
			}
			continue
		}
		wire.ClearKind(want)
		if ok {
			fast, hit = true, hit || size == tr.memo.Size()
			if !sameEntries(accessor(got).GetManagedFields(), accessor(want).GetManagedFields()) {
				t.Fatalf("%v applied to %v:\n%v, want\n%v", conf, live, accessor(got).GetManagedFields(), accessor(want).GetManagedFields())
			}
			a, b := got.DeepCopyObject(), want.DeepCopyObject()
			accessor(a).SetManagedFields(nil)
			accessor(b).SetManagedFields(nil)
			if !apiequality.Semantic.DeepEqual(a, b) {
				t.Fatalf("%v applied to %v gives\n%v, want\n%v", conf, live, a, b)
			}
		}
		live = want
	}
	return fast, hit
}

func sameEntries(a, b []metav1.ManagedFieldsEntry) bool {
	seen := func(list []metav1.ManagedFieldsEntry) map[string]string {
		m := map[string]string{}
		for _, e := range list {
			m[e.Manager+string(e.Operation)+e.APIVersion] = string(e.FieldsV1.Raw)
		}
		return m
	}
	return len(a) == len(b) && reflect.DeepEqual(seen(a), seen(b))
}

// sprinkled sets a few fields of obj, at any depth, and empties others.
func sprinkled(r *resource, rnd *rand.Rand, obj runtime.Object) runtime.Object {
	other := r.New()
	f := randfill.NewWithSeed(int64(rnd.IntN(4))).NilChance(0.9).NumElements(0, 2).MaxDepth(9).Funcs(
		func(s *string, c randfill.Continue) { *s = []string{"", "a", "b", "c"}[c.Intn(4)] },
		func(n *int32, c randfill.Continue) { *n = int32(c.Intn(3)) },
		func(n *int64, c randfill.Continue) { *n = int64(c.Intn(3)) },
		func(e *runtime.RawExtension, c randfill.Continue) { e.Raw = []byte(`{"a":1}`) },
		func(e *[]metav1.ManagedFieldsEntry, c randfill.Continue) {},
		func(e *metav1.FieldsV1, c randfill.Continue) { e.Raw = []byte("{}") },
	)
	f.Fill(other)
	mix(rnd, reflect.ValueOf(obj).Elem(), reflect.ValueOf(other).Elem())
	accessor(obj).SetName("n")
	return obj
}

// mix takes some fields over.
func mix(rnd *rand.Rand, to, from reflect.Value) {
	for i := range to.NumField() {
		f := to.Type().Field(i)
		switch {
		case !f.IsExported() || f.Name == "TypeMeta" || f.Name == "ManagedFields":
		case f.Type.Kind() == reflect.Struct && (f.Name == "ObjectMeta" || f.Name == "Spec" || f.Name == "Status"):
			mix(rnd, to.Field(i), from.Field(i))
		case rnd.IntN(16) == 0:
			to.Field(i).Set(from.Field(i))
		}
	}
}

func kinded(r *resource, objs ...runtime.Object) {
	for _, o := range objs {
		o.GetObjectKind().SetGroupVersionKind(r.Hub)
	}
}

// library is what the library makes of a change.
func library(r *resource, tr *tracker, live, obj runtime.Object, manager string) []metav1.ManagedFieldsEntry {
	live, obj = live.DeepCopyObject(), obj.DeepCopyObject()
	kinded(r, live, obj)
	return accessor(tr.fm.UpdateNoErrors(live, obj, manager)).GetManagedFields()
}

func created(r *resource, tr *tracker, obj runtime.Object, manager string) []metav1.ManagedFieldsEntry {
	obj = obj.DeepCopyObject()
	accessor(obj).SetUID("")
	return library(r, tr, r.New(), obj, manager)
}
