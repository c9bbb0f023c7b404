// Package tree answers in one pass what is asked of nearly every custom
// object: is there anything that its schema does not know, does a default
// have to be set, is it valid. A structural schema goes in and becomes a tree;
// objects go through it. It says yes only when that is certain, and never says
// what is wrong: whoever gets a no has the libraries of the field look, which
// find the words and cost many times as much.
package tree

import (
	"regexp"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/runtime"
)

// Tree is a compiled schema. It is safe for concurrent use.
type Tree struct {
	root *node
	// keep: unknown fields stay (preserveUnknownFields of old definitions).
	keep bool
	// foreign: defaults within the object's own metadata, which no one should
	// have been able to define, are left to the libraries.
	foreign bool
	// embeds: somewhere in the schema other objects are embedded, whose
	// metadata has rules of its own.
	embeds bool
}

// node is the schema of one value.
type node struct {
	kind         string // "" is any, or an integer or string
	intOrString  bool
	nullable     bool
	preserve     bool
	embedded     bool
	props        map[string]*node
	additional   *node
	anyElse      bool // additionalProperties: true
	items        *node
	defaults     []preset
	setItems     bool
	mapKeys      []string
	values       *values // nil: none
	withoutTypes bool    // part of a junction: says nothing of types
}

// preset is a field's default.
type preset struct {
	name  string
	value any
}

// values are the bounds of a value.
type values struct {
	format                   string
	min, max                 *float64
	minExcluded, maxExcluded bool
	minLength, maxLength     *int64
	minItems, maxItems       *int64
	minProperties, maxProps  *int64
	multipleOf               *float64
	pattern                  *regexp.Regexp
	enum                     []any
	required                 []string
	allOf, anyOf, oneOf      []*node
	not                      *node
	unknown                  bool // something that only the libraries judge
}

// Compile makes the tree of a schema, which is only read. keep says that
// unknown fields stay.
func Compile(s *structural.Structural, keep bool) *Tree {
	t := &Tree{keep: keep}
	t.root = t.node(s)
	if meta := t.root.props["metadata"]; meta != nil {
		t.foreign = meta.anyDefault()
	}
	return t
}

func (t *Tree) node(s *structural.Structural) *node {
	n := &node{
		kind: s.Type, intOrString: s.XIntOrString, nullable: s.Nullable, preserve: s.XPreserveUnknownFields,
		embedded: s.XEmbeddedResource, values: t.values(s.ValueValidation),
	}
	t.embeds = t.embeds || n.embedded
	if len(s.Properties) > 0 {
		n.props = make(map[string]*node, len(s.Properties))
	}
	for name := range s.Properties {
		p := s.Properties[name]
		n.props[name] = t.node(&p)
		if p.Default.Object != nil {
			n.defaults = append(n.defaults, preset{name, p.Default.Object})
		}
	}
	if a := s.AdditionalProperties; a != nil {
		if a.Structural != nil {
			n.additional = t.node(a.Structural)
		}
		n.anyElse = a.Bool
	}
	if s.Items != nil {
		n.items = t.node(s.Items)
	}
	if s.XListType != nil {
		n.setItems = *s.XListType == "set"
		if *s.XListType == "map" {
			n.mapKeys = s.XListMapKeys
		}
	}
	return n
}

// nested is the schema of a junction's branch.
func (t *Tree) nested(s *structural.NestedValueValidation) *node {
	n := &node{kind: s.ForbiddenGenerics.Type, withoutTypes: s.ForbiddenGenerics.Type == "", values: t.values(&s.ValueValidation)}
	// A format without a type is also one for the types it does not suit.
	if n.withoutTypes && s.Format != "" || s.ForbiddenGenerics.Nullable || s.ForbiddenExtensions.XIntOrString {
		n.values = &values{unknown: true}
	}
	if len(s.Properties) > 0 {
		n.props = make(map[string]*node, len(s.Properties))
	}
	for name := range s.Properties {
		p := s.Properties[name]
		n.props[name] = t.nested(&p)
	}
	if s.AdditionalProperties != nil {
		n.additional = t.nested(s.AdditionalProperties)
	}
	if s.Items != nil {
		n.items = t.nested(s.Items)
	}
	return n
}

func (t *Tree) values(s *structural.ValueValidation) *values {
	if s == nil {
		return nil
	}
	v := &values{
		format: s.Format, min: s.Minimum, max: s.Maximum, minExcluded: s.ExclusiveMinimum, maxExcluded: s.ExclusiveMaximum,
		minLength: s.MinLength, maxLength: s.MaxLength, minItems: s.MinItems, maxItems: s.MaxItems,
		minProperties: s.MinProperties, maxProps: s.MaxProperties, multipleOf: s.MultipleOf, required: s.Required,
		unknown: s.UniqueItems,
	}
	if s.Pattern != "" {
		var err error
		if v.pattern, err = regexp.Compile(s.Pattern); err != nil {
			v.unknown = true
		}
	}
	for i := range s.Enum {
		v.enum = append(v.enum, s.Enum[i].Object)
	}
	list := func(in []structural.NestedValueValidation) (out []*node) {
		for i := range in {
			out = append(out, t.nested(&in[i]))
		}
		return out
	}
	v.allOf, v.anyOf, v.oneOf = list(s.AllOf), list(s.AnyOf), list(s.OneOf)
	if s.Not != nil {
		v.not = t.nested(s.Not)
	}
	return v
}

func (n *node) anyDefault() bool {
	if n == nil {
		return false
	}
	if len(n.defaults) > 0 || n.items.anyDefault() || n.additional.anyDefault() {
		return true
	}
	for _, p := range n.props {
		if p.anyDefault() {
			return true
		}
	}
	return false
}

// Settle sets the defaults of an object and reports whether that was all there
// was to do: nothing to drop, no null where there must be none, no metadata
// that is written otherwise than in its own form. When it returns false the
// object has at most got some of its defaults.
func (t *Tree) Settle(obj map[string]any) bool {
	if t.foreign || t.root.kind != "object" && t.root.kind != "" {
		return false
	}
	for _, name := range [...]string{"apiVersion", "kind"} {
		if v, has := obj[name]; has {
			if _, ok := v.(string); !ok {
				return false
			}
		}
	}
	if v, has := obj["metadata"]; has {
		if meta, ok := v.(map[string]any); !ok || !plain(meta) {
			return false
		}
	}
	return t.settleMap(t.root, obj, true)
}

func (t *Tree) settleMap(n *node, obj map[string]any, root bool) bool {
	for i := range n.defaults {
		d := &n.defaults[i]
		if _, has := obj[d.name]; !has {
			obj[d.name] = runtime.DeepCopyJSONValue(d.value)
		}
	}
	for name, v := range obj {
		if root && (name == "metadata" || name == "apiVersion" || name == "kind") {
			continue
		}
		child := n.props[name]
		if child == nil {
			child = n.additional
		}
		switch {
		case child != nil:
			if !t.settle(child, v) {
				return false
			}
		case n.preserve || t.keep:
		case n.anyElse && scalar(v):
		default:
			return false
		}
	}
	return true
}

func (t *Tree) settle(n *node, v any) bool {
	if n.embedded {
		return false
	}
	switch v := v.(type) {
	case nil:
		return n.nullable
	case map[string]any:
		if n.kind != "object" && !(n.kind == "" && n.preserve) {
			return false
		}
		return t.settleMap(n, v, false)
	case []any:
		if n.items == nil {
			return n.preserve || t.keep
		}
		for _, item := range v {
			if !t.settle(n.items, item) {
				return false
			}
		}
	}
	return true
}

func scalar(v any) bool {
	switch v.(type) {
	case string, bool, int64, float64:
		return true
	}
	return false
}
