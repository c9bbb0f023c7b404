package fields

import (
	"fmt"

	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// The types below are a schema's in short JSON. They mirror those of package
// schema, which embed each other and so have no JSON form of their own.

type atom struct {
	Scalar string   `json:"s,omitempty"`
	List   *list    `json:"l,omitempty"`
	Map    *mapping `json:"m,omitempty"`
}

type ref struct {
	Named    string `json:"n,omitempty"`
	Inlined  *atom  `json:"i,omitempty"`
	Relation string `json:"r,omitempty"`
}

type list struct {
	Element  ref      `json:"e"`
	Relation string   `json:"r,omitempty"`
	Keys     []string `json:"k,omitempty"`
}

type mapping struct {
	Fields   []field `json:"f,omitempty"`
	Element  *ref    `json:"e,omitempty"`
	Relation string  `json:"r,omitempty"`
}

type field struct {
	Name    string `json:"n"`
	Type    ref    `json:"t"`
	Default any    `json:"d,omitempty"`
}

func pack(a *smd.Atom) *atom {
	out := &atom{}
	if a.Scalar != nil {
		out.Scalar = string(*a.Scalar)
	}
	if l := a.List; l != nil {
		out.List = &list{Element: packRef(&l.ElementType), Relation: string(l.ElementRelationship), Keys: l.Keys}
	}
	if m := a.Map; m != nil {
		out.Map = &mapping{Relation: string(m.ElementRelationship)}
		if e := packRef(&m.ElementType); e != (ref{}) {
			out.Map.Element = &e
		}
		for i := range m.Fields {
			f := &m.Fields[i]
			out.Map.Fields = append(out.Map.Fields, field{f.Name, packRef(&f.Type), plain(f.Default)})
		}
	}
	return out
}

func packRef(r *smd.TypeRef) ref {
	var out ref
	if r.NamedType != nil {
		out.Named = *r.NamedType
	}
	if in := pack(&r.Inlined); *in != (atom{}) {
		out.Inlined = in
	}
	if r.ElementRelationship != nil {
		out.Relation = string(*r.ElementRelationship)
	}
	return out
}

func (a *atom) unpack() smd.Atom {
	var out smd.Atom
	if a == nil {
		return out
	}
	if a.Scalar != "" {
		s := smd.Scalar(a.Scalar)
		out.Scalar = &s
	}
	if l := a.List; l != nil {
		out.List = &smd.List{ElementType: l.Element.unpack(), ElementRelationship: smd.ElementRelationship(l.Relation), Keys: l.Keys}
	}
	if m := a.Map; m != nil {
		out.Map = &smd.Map{ElementRelationship: smd.ElementRelationship(m.Relation)}
		if m.Element != nil {
			out.Map.ElementType = m.Element.unpack()
		}
		for i := range m.Fields {
			f := &m.Fields[i]
			out.Map.Fields = append(out.Map.Fields, smd.StructField{Name: f.Name, Type: f.Type.unpack(), Default: f.Default})
		}
	}
	return out
}

func (r *ref) unpack() smd.TypeRef {
	out := smd.TypeRef{Inlined: r.Inlined.unpack()}
	if r.Named != "" {
		out.NamedType = &r.Named
	}
	if r.Relation != "" {
		e := smd.ElementRelationship(r.Relation)
		out.ElementRelationship = &e
	}
	return out
}

// plain turns what a YAML reader makes into what a JSON reader makes.
func plain(v any) any {
	switch v := v.(type) {
	case map[any]any:
		out := map[string]any{}
		for k, x := range v {
			out[fmt.Sprint(k)] = plain(x)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = plain(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case int:
		return int64(v)
	}
	return v
}
