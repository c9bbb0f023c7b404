package builtin

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/internal/warp"
)

// FuzzKinds takes objects of every kind in every version, spoilt, the whole way
// that a write takes them apart from the store. None makes a step fail; no step
// changes what it only reads; defaults are idempotent; and what is good enough
// to be stored is read back the same, and may be written again as it is.
func FuzzKinds(f *testing.F) {
	table, err := With(Everything())
	if err != nil {
		f.Fatal(err)
	}
	objects := seeds(f, table)
	for i := range objects {
		f.Add(uint16(i), []byte{}, []byte{1, 2, 3})
		f.Add(uint16(i), []byte{1, 3, 5, 1, 9, 1, 0, 40}, []byte{2, 7, 1, 8, 2, 8})
	}
	f.Fuzz(func(t *testing.T, which uint16, first, second []byte) {
		objects[int(which)%len(objects)].try(t, table, first, second)
	})
}

// try takes the object, spoilt once, to the store, and spoilt once more over it.
func (s *seed) try(t *testing.T, table *api.Table, first, second []byte) {
	k := &trial{t: t, table: table, served: s.served}
	old := k.made(warp.Value(s.object, first))
	if old == nil {
		return
	}
	k.shown(old)
	if errs := k.created(old); len(errs) > 0 {
		return
	}
	k.stored(old)
	k.changed(old, warp.Value(s.object, append(slices.Clone(first), second...)))
}

// seed is an object as it may be sent.
type seed struct {
	served api.Served
	object any
}

// seeds are the objects with every field set that k8s.io/api ships, and those
// of the validation cases, which are accepted.
func seeds(f testing.TB, table *api.Table) []seed {
	var out []seed
	add := func(text []byte) {
		var meta metav1.TypeMeta
		var o any
		if err := json.Unmarshal(text, &o); err != nil {
			f.Fatal(err)
		}
		_ = json.Unmarshal(text, &meta)
		served, ok := table.Kind(meta.GroupVersionKind())
		if !ok {
			f.Fatalf("%v is not served", meta)
		}
		out = append(out, seed{served, o})
	}
	files, err := validationCases.ReadDir("testdata/validation")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := validationCases.ReadFile("testdata/validation/" + file.Name())
		if err != nil {
			f.Fatal(err)
		}
		var s suite
		if err := yaml.UnmarshalStrict(data, &s); err != nil {
			f.Fatal(err)
		}
		add(s.Object)
	}
	dir := fixtures(f)
	for _, k := range table.Kinds {
		for i := range k.Views {
			if !elsewhere(k) {
				add(fixture(f, dir, k.Views[i].GroupVersionKind, "json"))
			}
		}
	}
	return out
}

// trial is one object's way.
type trial struct {
	t      *testing.T
	table  *api.Table
	served api.Served
}

// made is the hub object that a body means, nil if it means none.
func (k *trial) made(body any) runtime.Object {
	text, err := json.Marshal(body)
	if err != nil {
		k.t.Fatal(err)
	}
	v := k.served.View
	in, _, err := k.table.Codecs.UniversalDeserializer().Decode(text, &v.GroupVersionKind, v.New())
	if err != nil {
		return nil
	}
	if in.GetObjectKind().GroupVersionKind() != v.GroupVersionKind {
		return nil
	}
	in.GetObjectKind().SetGroupVersionKind(v.GroupVersionKind)
	if v.Default != nil {
		v.Default(in)
	}
	if v.ToHub != nil {
		if in, err = v.ToHub(in); err != nil {
			return nil
		}
		in = in.DeepCopyObject()
	}
	if d := k.served.Strategy.Default; d != nil {
		d(in)
		k.unchanged(in, "defaults are not idempotent", func() { d(in) })
	}
	m := in.(metav1.Object)
	m.SetUID("11111111-2222-3333-4444-555555555555")
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	return in
}

// unchanged fails if what do does is seen in obj.
func (k *trial) unchanged(obj runtime.Object, complaint string, do func()) {
	before := obj.DeepCopyObject()
	do()
	if !apiequality.Semantic.DeepEqual(before, obj) {
		a, _ := json.Marshal(before)
		b, _ := json.Marshal(obj)
		k.t.Errorf("%s: %s\nis    %s\nwas   %s", k.served.Resource, complaint, b, a)
	}
}

// created prepares and judges a new object.
func (k *trial) created(obj runtime.Object) field.ErrorList {
	st := &k.served.Strategy
	if st.EarlyWarnings != nil {
		st.EarlyWarnings(obj)
	}
	if st.PrepareCreate != nil {
		st.PrepareCreate(obj)
	}
	if st.Canonicalize != nil {
		st.Canonicalize(obj)
	}
	name := apivalidation.NameIsDNSSubdomain
	if st.ValidateName != nil {
		name = st.ValidateName
	}
	var errs field.ErrorList
	k.unchanged(obj, "validation changes it", func() {
		errs = apivalidation.ValidateObjectMetaAccessor(obj.(metav1.Object), k.served.Namespaced, name, field.NewPath("metadata"))
		if st.Validate != nil {
			errs = append(errs, st.Validate(obj)...)
		}
		if c := k.served.View.Check; c != nil {
			errs = append(errs, c(obj, nil)...)
		}
		if len(errs) == 0 && st.Warnings != nil {
			st.Warnings(obj, nil)
		}
	})
	return errs
}

// shown puts the object into a table and into every version.
func (k *trial) shown(obj runtime.Object) {
	k.unchanged(obj, "reading changes it", func() {
		if c := k.served.Kind.Cells; c != nil && len(c(obj)) < len(k.served.Columns) {
			k.t.Errorf("%s: cells are missing", k.served.Resource)
		}
		if k.served.Fields != nil {
			k.served.Fields(obj)
		}
		for i := range k.served.Views {
			v := &k.served.Views[i]
			out := obj
			if v.FromHub != nil {
				var err error
				if out, err = v.FromHub(obj); err != nil {
					continue
				}
			}
			if _, err := json.Marshal(out); err != nil {
				k.t.Errorf("%s as %v: %v", k.served.Resource, v, err)
			}
			if v.Cells != nil {
				v.Cells(out)
			}
		}
		for _, s := range k.served.Subresources {
			if s.Project == nil {
				continue
			}
			if in, err := s.Project.Get(obj); err == nil {
				if s.Project.Validate != nil {
					s.Project.Validate(in)
				}
				_ = s.Project.Set(obj.DeepCopyObject(), in)
			}
		}
	})
}

// stored writes an accepted object in the form of the store and reads it back.
func (k *trial) stored(obj runtime.Object) {
	kind := k.served.Kind
	if kind.Prefix == "" || kind.Stored != nil {
		return
	}
	media := runtime.ContentTypeProtobuf
	if kind.StoredJSON {
		media = runtime.ContentTypeJSON
	}
	info, _ := runtime.SerializerInfoForMediaType(k.table.Codecs.SupportedMediaTypes(), media)
	var buf bytes.Buffer
	if err := k.table.Codecs.EncoderForVersion(info.Serializer, kind.Hub.GroupVersion()).Encode(obj, &buf); err != nil {
		k.t.Fatalf("%s: accepted, but cannot be stored: %v", k.served.Resource, err)
	}
	got, _, err := k.table.Codecs.UniversalDeserializer().Decode(buf.Bytes(), nil, nil)
	if err != nil {
		k.t.Fatalf("%s: stored, but cannot be read: %v", k.served.Resource, err)
	}
	if d := k.served.Strategy.Default; d != nil {
		d(got)
	}
	got.GetObjectKind().SetGroupVersionKind(obj.GetObjectKind().GroupVersionKind())
	if !same(got, obj) {
		a, _ := json.Marshal(obj)
		b, _ := json.Marshal(got)
		k.t.Errorf("%s is read as\n%s\nwas\n%s", k.served.Resource, b, a)
	}
}

// changed writes over an accepted object: itself, which has to be accepted, and
// another, by every subresource that takes whole objects.
func (k *trial) changed(old runtime.Object, body any) {
	old.(metav1.Object).SetResourceVersion("1")
	main := k.served.Strategy
	again := old.DeepCopyObject()
	if main.Default != nil {
		main.Default(again)
	}
	if errs := k.update(&main, again, old); len(errs) > 0 {
		text, _ := json.Marshal(old)
		k.t.Errorf("%s: written again as it is, it is refused: %v\n%s", k.served.Resource, errs, text)
	}
	obj := k.made(body)
	if obj == nil {
		return
	}
	obj.(metav1.Object).SetResourceVersion("1")
	k.update(&main, obj.DeepCopyObject(), old)
	for _, name := range slices.Sorted(maps.Keys(k.served.Subresources)) {
		if s := k.served.Subresources[name].Object; s != nil {
			k.update(s, obj.DeepCopyObject(), old)
		}
	}
}

func (k *trial) update(st *api.Strategy, obj, old runtime.Object) (errs field.ErrorList) {
	k.unchanged(old, "an update changes the stored object", func() {
		if st.PrepareUpdate != nil {
			st.PrepareUpdate(obj, old)
		}
		if st.Canonicalize != nil {
			st.Canonicalize(obj)
		}
		errs = apivalidation.ValidateObjectMetaAccessorUpdate(obj.(metav1.Object), old.(metav1.Object), field.NewPath("metadata"))
		if st.ValidateUpdate != nil {
			errs = append(errs, st.ValidateUpdate(obj, old)...)
		}
		if c := k.served.View.Check; c != nil {
			errs = append(errs, c(obj, old)...)
		}
		if len(errs) == 0 && st.Warnings != nil {
			st.Warnings(obj, old)
		}
	})
	k.shown(obj)
	return errs
}
