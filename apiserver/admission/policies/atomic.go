package policies

import (
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// atomics lists where a value of a type names lists, maps and structs that are
// replaced as a whole. An apply configuration may name none: its author could
// not know what else it throws away (KEP-3962).
func atomics(s *schema.Schema, ref schema.TypeRef, v any, path string) []string {
	atom, ok := s.Resolve(ref)
	if !ok {
		return nil
	}
	var out []string
	switch v := v.(type) {
	case map[string]any:
		if atom.Map == nil {
			return nil
		}
		if atom.Map.ElementRelationship == schema.Atomic {
			out = append(out, path)
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			t := atom.Map.ElementType
			if f, ok := atom.Map.FindField(k); ok {
				t = f.Type
			}
			out = append(out, atomics(s, t, v[k], path+"."+k)...)
		}
	case []any:
		if atom.List == nil {
			return nil
		}
		if atom.List.ElementRelationship == schema.Atomic {
			out = append(out, path)
		}
		for i := range v {
			out = append(out, atomics(s, atom.List.ElementType, v[i], fmt.Sprintf("%s[%d]", path, i))...)
		}
	}
	return out
}
