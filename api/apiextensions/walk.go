package apiextensions

import (
	hub "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

// walker goes through a schema and judges each schema in it.
type walker struct {
	errs  field.ErrorList
	rules *rules // nil: rules are not compiled
}

// spot is a schema's place in the whole, and the forms it has there.
type spot struct {
	place
	path *field.Path
	st   *structural.Structural // nil within alternatives, or if there is none
	decl *apiservercel.DeclType // nil where st is, or rules are not compiled
	// untyped: it is within a schema of no known type, which is said of that.
	untyped bool
	root    bool
	// fixed says why there may be no defaults; "" if there may.
	fixed string
}

func rootSpot(st *structural.Structural, compile bool, path *field.Path) spot {
	s := spot{place: place{times: times{1, true}}, path: path, st: st, root: true}
	if compile && hasRules(st) {
		s.decl = model.SchemaDeclType(st, true)
	}
	return s
}

// walk judges a schema and all within it: those within first, then its rules.
func (w *walker) walk(s *hub.JSONSchemaProps, at spot) {
	before := len(w.errs)
	w.errs = append(w.errs, validateUnsupported(s, at.path)...)
	if at.fixed != "" && s.Default != nil {
		w.errs = append(w.errs, field.Forbidden(at.path.Child("default"), at.fixed))
	}
	for _, c := range children(s, at.path) {
		w.walk(c.schema, at.within(c))
	}
	w.errs = append(w.errs, validateTypes(s, at.path)...)
	path := at.path.Child("x-kubernetes-validations")
	for i := range s.XValidations {
		w.errs = append(w.errs, validateRule(&s.XValidations[i], at.st, path.Index(i))...)
	}
	if w.rules != nil && at.st != nil && !at.untyped && len(s.XValidations) > 0 && len(w.errs) == before {
		w.rules.judge(at.st, at.decl, path, at.place)
	}
}

// within is the spot of a schema in the one at the spot.
func (at spot) within(c child) spot {
	in := spot{place: at.place, path: c.path, fixed: at.fixed}
	if c.in == "properties" && at.root {
		switch c.name {
		case "apiVersion", "kind", "metadata":
			in.fixed = "must not be set in top-level " + c.name
		}
	}
	if at.st == nil {
		return in
	}
	in.untyped = at.decl == nil
	switch c.in {
	case "properties":
		if p, ok := at.st.Properties[c.name]; ok {
			in.st = &p
		}
		if escaped, ok := apiservercel.Escape(c.name); ok && at.decl != nil {
			if f, ok := at.decl.Fields[escaped]; ok {
				in.decl = f.Type
			}
		}
	case "items":
		in.st, in.decl = at.st.Items, at.elem()
		in.times = repeated(at.times, at.st, false)
		if keyed := at.st.XListType != nil && *at.st.XListType == "map"; !keyed && at.lost == nil {
			in.lost = at.path
		}
	case "additionalProperties":
		if a := at.st.AdditionalProperties; a != nil {
			in.st = a.Structural
		}
		in.decl, in.times = at.elem(), repeated(at.times, at.st, true)
	}
	return in
}

func (at spot) elem() *apiservercel.DeclType {
	if at.decl == nil {
		return nil
	}
	return at.decl.ElemType
}

// validateUnsupported refuses constructs that the API has no use for.
func validateUnsupported(s *hub.JSONSchemaProps, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.UniqueItems {
		errs = append(errs, field.Forbidden(path.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"))
	}
	no := func(bad bool, name string) {
		if bad {
			errs = append(errs, field.Forbidden(path.Child(name), name+" is not supported"))
		}
	}
	no(s.ID != "", "id")
	no(s.AdditionalItems != nil, "additionalItems")
	no(len(s.PatternProperties) > 0, "patternProperties")
	no(len(s.Definitions) > 0, "definitions")
	no(s.Dependencies != nil, "dependencies")
	no(s.Ref != nil, "$ref")
	if a := s.AdditionalProperties; a != nil && len(s.Properties) > 0 && (!a.Allows || a.Schema != nil) {
		errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive"))
	}
	if s.Items != nil && len(s.Items.JSONSchemas) > 0 {
		errs = append(errs, field.Forbidden(path.Child("items"), "items must be a schema object and not an array"))
	}
	return errs
}
