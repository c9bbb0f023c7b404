// Package fields knows the schema by which server-side apply and field
// management merge the built-in kinds: kinds go in, a type converter for them
// comes out. The schema is client-go's, compiled to one line per type, so that
// only the types behind a kind are read, when the kind is first written;
// reading client-go's own at once costs 90 ms and 25 MB of garbage.
package fields

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kjson "sigs.k8s.io/json"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

//go:generate go run ./gen zz_schema.gz

//go:embed zz_schema.gz
var compiled []byte

// Converter returns a type converter for kinds, which must be in scheme. It
// is an error if the schema has none of them; a kind that it lacks is left out.
func Converter(scheme *runtime.Scheme, kinds ...schema.GroupVersionKind) (managedfields.TypeConverter, error) {
	lines, err := load()
	if err != nil {
		return nil, fmt.Errorf("schema of field management: %w", err)
	}
	var roots []string
	for _, gvk := range kinds {
		name, err := scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			return nil, fmt.Errorf("schema of %v: %w", gvk, err)
		}
		if _, ok := lines[name]; ok {
			roots = append(roots, name)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no schema for %v", kinds)
	}
	types, err := closure(lines, roots)
	if err != nil {
		return nil, err
	}
	return managedfields.NewSchemeTypeConverter(scheme, &typed.Parser{Schema: smd.Schema{Types: types}}), nil
}

// load splits the compiled schema into the definitions of its types.
func load() (map[string][]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(compiled))
	if err != nil {
		return nil, err
	}
	all, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for line := range bytes.Lines(all) {
		name, def, ok := bytes.Cut(line, []byte{'\t'})
		if !ok {
			return nil, fmt.Errorf("no definition in %q", line)
		}
		out[string(name)] = def
	}
	return out, nil
}

// closure reads the roots and all that they refer to.
func closure(lines map[string][]byte, roots []string) ([]smd.TypeDef, error) {
	var out []smd.TypeDef
	seen := map[string]bool{}
	for todo := roots; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		def, ok := lines[name]
		if !ok {
			return nil, fmt.Errorf("schema lacks the type %s", name)
		}
		var packed atom
		if err := kjson.UnmarshalCaseSensitivePreserveInts(def, &packed); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", name, err)
		}
		t := smd.TypeDef{Name: name, Atom: packed.unpack()}
		out = append(out, t)
		todo = append(todo, references(&t.Atom)...)
	}
	return out, nil
}

// references lists the types that an atom names.
func references(a *smd.Atom) []string {
	var out []string
	add := func(r *smd.TypeRef) {
		if r.NamedType != nil {
			out = append(out, *r.NamedType)
		}
		out = append(out, references(&r.Inlined)...)
	}
	if a.List != nil {
		add(&a.List.ElementType)
	}
	if a.Map != nil {
		for i := range a.Map.Fields {
			add(&a.Map.Fields[i].Type)
		}
		add(&a.Map.ElementType)
	}
	return out
}

// Compile writes a schema in the form that Converter reads. The generator and
// the test that the generated file is current use it.
func Compile(s *smd.Schema, to io.Writer) error {
	w := bufio.NewWriter(to)
	types := slices.Clone(s.Types)
	slices.SortFunc(types, func(a, b smd.TypeDef) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	for i := range types {
		def, err := json.Marshal(pack(&types[i].Atom))
		if err != nil {
			return fmt.Errorf("type %s: %w", types[i].Name, err)
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\n", types[i].Name, def); err != nil {
			return err
		}
	}
	return w.Flush()
}
