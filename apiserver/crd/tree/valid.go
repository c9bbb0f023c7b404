package tree

import (
	"math"
	"slices"
	"unicode/utf8"

	"k8s.io/kube-openapi/pkg/validation/strfmt"
)

// verdict is what is known of a value.
type verdict uint8

const (
	invalid verdict = iota
	unsure
	valid
)

func (v verdict) and(w verdict) verdict { return min(v, w) }

func sure(ok bool) verdict {
	if ok {
		return valid
	}
	return invalid
}

// Valid reports whether an object that is settled is valid for certain, its
// lists included whose items have to differ. CEL rules are not looked at.
func (t *Tree) Valid(obj map[string]any) bool {
	return !t.embeds && t.root.check(obj) == valid
}

func (n *node) check(v any) verdict {
	if v == nil {
		if n.nullable && n.values == nil {
			return valid
		}
		return unsure
	}
	out := n.checkType(v)
	if out == invalid {
		return invalid
	}
	switch v := v.(type) {
	case map[string]any:
		out = out.and(n.checkMap(v))
	case []any:
		out = out.and(n.checkList(v))
	case int64, float64, string, bool:
	default:
		return unsure
	}
	if n.values != nil && out != invalid {
		out = out.and(n.values.check(v))
	}
	return out
}

func (n *node) checkType(v any) verdict {
	if n.withoutTypes {
		return valid
	}
	have := "" // the type of v
	switch v := v.(type) {
	case map[string]any:
		have = "object"
	case []any:
		have = "array"
	case string:
		have = "string"
	case bool:
		have = "boolean"
	case int64:
		have = "integer"
		if n.values != nil && n.values.format == "int32" && (v > math.MaxInt32 || v < math.MinInt32) {
			return unsure
		}
	case float64:
		have = "number"
		if n.kind == "integer" || n.intOrString {
			return unsure // 1.0 is one
		}
	}
	switch {
	case n.intOrString:
		return sure(have == "integer" || have == "string")
	case n.kind == "", n.kind == have, n.kind == "number" && have == "integer":
		return valid
	}
	return invalid
}

func (n *node) checkMap(m map[string]any) verdict {
	if n.props == nil && n.additional == nil {
		return valid
	}
	out := valid
	for name, v := range m {
		child := n.props[name]
		if child == nil {
			child = n.additional
		}
		if child == nil {
			continue
		}
		if out = out.and(child.check(v)); out == invalid {
			return invalid
		}
	}
	return out
}

func (n *node) checkList(list []any) verdict {
	out := valid
	if n.items != nil {
		for _, v := range list {
			if out = out.and(n.items.check(v)); out == invalid {
				return invalid
			}
		}
	}
	switch {
	case n.setItems:
		out = out.and(distinct(len(list), func(i int) any { return list[i] }))
	case n.mapKeys != nil:
		out = out.and(n.checkKeys(list))
	}
	return out
}

// many is from how many items on they are not compared each with each.
const many = 24

// distinct says that n scalars differ.
func distinct(n int, at func(int) any) verdict {
	for i := range n {
		if !scalar(at(i)) {
			return unsure
		}
	}
	if n < many {
		for i := range n {
			for j := range i {
				if at(i) == at(j) {
					return invalid
				}
			}
		}
		return valid
	}
	seen := make(map[any]struct{}, n)
	for i := range n {
		seen[at(i)] = struct{}{}
	}
	return sure(len(seen) == n)
}

// checkKeys says that the items of a list differ in their keys.
func (n *node) checkKeys(list []any) verdict {
	for _, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			return unsure
		}
		for _, k := range n.mapKeys {
			if !scalar(m[k]) {
				return unsure
			}
		}
	}
	key := func(i int, k string) any { return list[i].(map[string]any)[k] }
	if len(n.mapKeys) == 1 {
		return distinct(len(list), func(i int) any { return key(i, n.mapKeys[0]) })
	}
	if len(list) >= many {
		return unsure
	}
	for i := range list {
		for j := range i {
			if !slices.ContainsFunc(n.mapKeys, func(k string) bool { return key(i, k) != key(j, k) }) {
				return invalid
			}
		}
	}
	return valid
}

func (b *values) check(v any) verdict {
	if b.unknown {
		return unsure
	}
	out := valid
	switch v := v.(type) {
	case string:
		out = b.checkString(v)
	case int64:
		out = b.checkNumber(float64(v), v > -1<<53 && v < 1<<53)
	case float64:
		out = b.checkNumber(v, true)
	case []any:
		out = sure(atLeast(len(v), b.minItems) && atMost(len(v), b.maxItems))
	case map[string]any:
		out = b.checkProperties(v)
	}
	if b.enum != nil {
		out = out.and(b.checkEnum(v))
	}
	if out != invalid && (b.allOf != nil || b.anyOf != nil || b.oneOf != nil || b.not != nil) {
		out = out.and(b.checkJunctions(v))
	}
	return out
}

func atLeast(n int, limit *int64) bool { return limit == nil || int64(n) >= *limit }
func atMost(n int, limit *int64) bool  { return limit == nil || int64(n) <= *limit }

func (b *values) checkString(s string) verdict {
	if b.minLength != nil || b.maxLength != nil {
		if n := utf8.RuneCountInString(s); !atLeast(n, b.minLength) || !atMost(n, b.maxLength) {
			return invalid
		}
	}
	if b.pattern != nil && !b.pattern.MatchString(s) {
		return invalid
	}
	if b.format != "" && strfmt.Default.ContainsName(b.format) && !strfmt.Default.Validates(b.format, s) {
		return unsure
	}
	return valid
}

// checkNumber compares numbers; exact says that v is the number itself.
func (b *values) checkNumber(v float64, exact bool) verdict {
	if b.min == nil && b.max == nil && b.multipleOf == nil {
		return valid
	}
	if !exact || b.multipleOf != nil {
		return unsure
	}
	if b.min != nil && (v < *b.min || b.minExcluded && v == *b.min) || b.max != nil && (v > *b.max || b.maxExcluded && v == *b.max) {
		return invalid
	}
	return valid
}

func (b *values) checkProperties(m map[string]any) verdict {
	if !atLeast(len(m), b.minProperties) || !atMost(len(m), b.maxProps) {
		return invalid
	}
	for _, name := range b.required {
		if _, has := m[name]; !has {
			return invalid
		}
	}
	return valid
}

func (b *values) checkEnum(v any) verdict {
	if !scalar(v) {
		return unsure
	}
	for _, e := range b.enum {
		if e == v {
			return valid
		}
	}
	return unsure
}

func (b *values) checkJunctions(v any) verdict {
	out := valid
	for _, n := range b.allOf {
		out = out.and(n.check(v))
	}
	if b.anyOf != nil {
		best := invalid
		for _, n := range b.anyOf {
			best = max(best, n.check(v))
		}
		out = out.and(best)
	}
	if b.oneOf != nil {
		out = out.and(one(b.oneOf, v))
	}
	if b.not != nil {
		switch b.not.check(v) {
		case valid:
			return invalid
		case unsure:
			return out.and(unsure)
		}
	}
	return out
}

// one says that exactly one of the schemas takes the value.
func one(list []*node, v any) verdict {
	n := 0
	for _, s := range list {
		switch s.check(v) {
		case unsure:
			return unsure
		case valid:
			n++
		}
	}
	return sure(n == 1)
}
