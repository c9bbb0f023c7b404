package builtin

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/coxswain/cox/api"
)

// fixtures finds the objects with every field set that k8s.io/api ships.
func fixtures(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		t.Skipf("the module k8s.io/api cannot be found: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "testdata", "HEAD")
}

func fixture(t testing.TB, dir string, gvk schema.GroupVersionKind, suffix string) []byte {
	t.Helper()
	group := gvk.Group
	if group == "" {
		group = "core"
	}
	data, err := os.ReadFile(filepath.Join(dir, group+"."+gvk.Version+"."+gvk.Kind+"."+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func eachView(t *testing.T, f func(t *testing.T, table *api.Table, k *api.Kind, v *api.View)) {
	table, err := With(Everything())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range table.Kinds {
		if elsewhere(k) {
			continue
		}
		for i := range k.Views {
			v := &k.Views[i]
			t.Run(v.GroupVersion().String()+"/"+k.Resource, func(t *testing.T) { f(t, table, k, v) })
		}
	}
}

func decode(t *testing.T, table *api.Table, data []byte) runtime.Object {
	t.Helper()
	obj, _, err := table.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// Every kind survives every wire format: what is decoded from one and encoded
// in another is the same object.
func TestRoundTrip(t *testing.T) {
	dir := fixtures(t)
	eachView(t, func(t *testing.T, table *api.Table, k *api.Kind, v *api.View) {
		want := decode(t, table, fixture(t, dir, v.GroupVersionKind, "json"))
		if got := reflect.TypeOf(want); got != reflect.TypeOf(v.New()) {
			t.Fatalf("decoded a %v, the view makes a %T", got, v.New())
		}
		for suffix, media := range map[string]string{
			"json": runtime.ContentTypeJSON, "yaml": runtime.ContentTypeYAML, "pb": runtime.ContentTypeProtobuf,
		} {
			if got := decode(t, table, fixture(t, dir, v.GroupVersionKind, suffix)); !same(got, want) {
				t.Errorf("%s: another object", suffix)
			}
			info, ok := runtime.SerializerInfoForMediaType(table.Codecs.SupportedMediaTypes(), media)
			if !ok {
				t.Fatalf("no serializer for %s", media)
			}
			var buf bytes.Buffer
			if err := table.Codecs.EncoderForVersion(info.Serializer, v.GroupVersion()).Encode(want, &buf); err != nil {
				t.Fatalf("%s: %v", media, err)
			}
			if got := decode(t, table, buf.Bytes()); !same(got, want) {
				t.Errorf("%s: encoded and decoded, it is another object", media)
			}
		}
	})
}

// same compares two objects; raw JSON inside them may be spaced differently.
func same(a, b runtime.Object) bool {
	if apiequality.Semantic.DeepEqual(a, b) {
		return true
	}
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// samples are objects of the hub: the full one, the empty one, and those with
// one of the top-level parts of the full one.
func samples(t *testing.T, table *api.Table, dir string, k *api.Kind) []runtime.Object {
	t.Helper()
	full := decode(t, table, fixture(t, dir, k.Hub, "json"))
	out := []runtime.Object{full, k.New()}
	rv := reflect.ValueOf(full).Elem()
	for i := range rv.NumField() {
		part := k.New()
		reflect.ValueOf(part).Elem().Field(i).Set(rv.Field(i))
		out = append(out, part.DeepCopyObject())
	}
	return out
}

// elsewhere says that a kind's type is not of k8s.io/api, which has no fixture
// of it then.
func elsewhere(k *api.Kind) bool {
	return k.Hub.Group == "apiextensions.k8s.io" || k.Hub.Group == "apiregistration.k8s.io" || k.Hub.Group == "metrics.k8s.io"
}

func eachSample(t *testing.T, f func(t *testing.T, k *api.Kind, sample runtime.Object)) {
	dir := fixtures(t)
	table, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range table.Kinds {
		if elsewhere(k) {
			continue
		}
		t.Run(k.GR().String(), func(t *testing.T) {
			for _, s := range samples(t, table, dir, k) {
				f(t, k, s)
			}
		})
	}
}

// Defaulting what has been defaulted changes nothing.
func TestDefaultsAreIdempotent(t *testing.T) {
	eachSample(t, func(t *testing.T, k *api.Kind, once runtime.Object) {
		if k.Strategy.Default == nil {
			return
		}
		k.Strategy.Default(once)
		twice := once.DeepCopyObject()
		k.Strategy.Default(twice)
		if !reflect.DeepEqual(once, twice) {
			a, _ := json.Marshal(once)
			b, _ := json.Marshal(twice)
			t.Errorf("defaulted again:\n%s\nwas\n%s", b, a)
		}
	})
}

// A row of the table has one JSON scalar for every column, whatever the
// object lacks.
func TestCells(t *testing.T) {
	eachSample(t, func(t *testing.T, k *api.Kind, sample runtime.Object) {
		if k.Cells == nil {
			return
		}
		cells := k.Cells(sample)
		if k.Resource == "ipaddresses" {
			cells = cells[:len(k.Columns)] // it has an age that no column is for, as upstream's
		}
		if len(cells) != len(k.Columns) {
			t.Fatalf("%d cells for %d columns", len(cells), len(k.Columns))
		}
		for i, c := range cells {
			switch c.(type) {
			case string, int64, bool, float64, nil:
			default:
				t.Errorf("column %s is a %T", k.Columns[i].Name, c)
			}
		}
	})
}

// The stored object is shared: no strategy may change it, nor keep parts of it
// in the new one where a later change would reach it.
func TestPrepareLeavesOldAlone(t *testing.T) {
	eachSample(t, func(t *testing.T, k *api.Kind, old runtime.Object) {
		strategies := map[string]*api.Strategy{"": &k.Strategy}
		for name, s := range k.Subresources {
			if s.Object != nil {
				strategies[name] = s.Object
			}
		}
		for name, s := range strategies {
			if s.PrepareUpdate == nil {
				continue
			}
			before := old.DeepCopyObject()
			obj := k.New()
			s.PrepareUpdate(obj, old)
			if !reflect.DeepEqual(before, old) {
				t.Errorf("PrepareUpdate of %q changed the stored object", name)
			}
		}
	})
}

// Field selectors work on the names that the row announces, and no others.
func TestFields(t *testing.T) {
	eachSample(t, func(t *testing.T, k *api.Kind, sample runtime.Object) {
		if k.Fields == nil {
			return
		}
		set := k.Fields(sample)
		for _, name := range k.FieldNames {
			if !set.Has(name) {
				t.Errorf("no value of %s", name)
			}
			delete(set, name)
		}
		for name := range set {
			switch name {
			case "metadata.name", "metadata.namespace":
			default:
				t.Errorf("%s is not among the field names", name)
			}
		}
	})
}
