package core

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a kubelet declares is sorted, has nothing twice, and is made of names.
func TestDeclaredFeatures(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"A", "B", "B/part"}, ""},
		{[]string{"B", "A"}, `f[1]: Invalid value: "A": list must be sorted alphabetically`},
		{[]string{"A", "A"}, `f[1]: Duplicate value: "A"`},
		{[]string{"a"}, `f[0]: Invalid value: "a": invalid feature name "a": must start with`},
		{[]string{"A/"}, `f[0]: Invalid value: "A/": invalid feature name "A/": must start with`},
	} {
		got := ""
		if err := validateDeclaredFeatures(c.names, field.NewPath("f")).ToAggregate(); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%v: got %q, want %q", c.names, got, c.want)
		}
	}
}
