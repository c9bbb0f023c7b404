package builtin

import (
	"embed"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/coxswain/cox/api"
)

//go:embed testdata/validation
var validationCases embed.FS

// suite is one file of testdata/validation: an object that is accepted, and
// merge patches of it with the errors that they bring.
type suite struct {
	Object json.RawMessage `json:"object"`
	// Create, Update and the status subresource, each with the object as it
	// is stored.
	Create []change `json:"create"`
	Update []change `json:"update"`
	Status []change `json:"status"`
}

type change struct {
	Patch json.RawMessage `json:"patch"`
	// Errors are all errors, as users see them; none means accepted.
	Errors []string `json:"errors"`
}

// Every constrained field has an object that is refused for it, with the
// field, the reason and the text that upstream gives.
func TestValidation(t *testing.T) {
	table, err := With(Everything())
	if err != nil {
		t.Fatal(err)
	}
	files, err := validationCases.ReadDir("testdata/validation")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(f.Name(), ".yaml"), func(t *testing.T) {
			data, err := validationCases.ReadFile("testdata/validation/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			var s suite
			if err := yaml.UnmarshalStrict(data, &s); err != nil {
				t.Fatal(err)
			}
			s.run(t, table)
		})
	}
}

func (s *suite) run(t *testing.T, table *api.Table) {
	var meta metav1.TypeMeta
	if err := json.Unmarshal(s.Object, &meta); err != nil {
		t.Fatal(err)
	}
	served, ok := table.Kind(schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind))
	if !ok {
		t.Fatalf("%s %s is not served", meta.APIVersion, meta.Kind)
	}
	st := &served.Strategy
	if errs := create(t, table, st, s.Object); len(errs) > 0 {
		t.Fatalf("the object itself: %v", errs)
	}
	for _, c := range s.Create {
		t.Run("create "+string(c.Patch), func(t *testing.T) {
			c.compare(t, create(t, table, st, merge(t, s.Object, c.Patch)))
		})
	}
	for _, c := range s.Update {
		t.Run("update "+string(c.Patch), func(t *testing.T) { c.compare(t, s.update(t, table, st, st, c.Patch)) })
	}
	for _, c := range s.Status {
		t.Run("status "+string(c.Patch), func(t *testing.T) {
			c.compare(t, s.update(t, table, st, served.Subresources["status"].Object, c.Patch))
		})
	}
}

func merge(t *testing.T, object, patch []byte) []byte {
	t.Helper()
	out, err := jsonpatch.MergePatch(object, patch)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// prepared is an object as it is before validation.
func prepared(t *testing.T, table *api.Table, st *api.Strategy, data []byte) runtime.Object {
	t.Helper()
	obj := decode(t, table, data)
	obj.(metav1.Object).SetUID("11111111-2222-3333-4444-555555555555")
	if st.Default != nil {
		st.Default(obj)
	}
	return obj
}

func create(t *testing.T, table *api.Table, st *api.Strategy, data []byte) field.ErrorList {
	t.Helper()
	obj := prepared(t, table, st, data)
	if st.PrepareCreate != nil {
		st.PrepareCreate(obj)
	}
	var errs field.ErrorList
	if st.ValidateName != nil {
		for _, msg := range st.ValidateName(obj.(metav1.Object).GetName(), false) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.(metav1.Object).GetName(), msg))
		}
	}
	if st.Validate != nil {
		errs = append(errs, st.Validate(obj)...)
	}
	return errs
}

// update patches the stored object through one strategy.
func (s *suite) update(t *testing.T, table *api.Table, main, st *api.Strategy, patch []byte) field.ErrorList {
	t.Helper()
	old := prepared(t, table, main, s.Object)
	if main.PrepareCreate != nil {
		main.PrepareCreate(old)
	}
	stored, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	var meta metav1.TypeMeta
	_ = json.Unmarshal(s.Object, &meta)
	whole := merge(t, stored, []byte(`{"apiVersion":"`+meta.APIVersion+`","kind":"`+meta.Kind+`"}`))
	obj := prepared(t, table, main, merge(t, whole, patch))
	if st.PrepareUpdate != nil {
		st.PrepareUpdate(obj, old)
	}
	if st.ValidateUpdate == nil {
		return nil
	}
	return st.ValidateUpdate(obj, old)
}

func (c *change) compare(t *testing.T, errs field.ErrorList) {
	t.Helper()
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	want := slices.Clone(c.Errors)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("errors:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
