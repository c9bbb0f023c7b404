package resource

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// FuzzSelector judges expressions that select devices: new ones and those that
// are stored, which are judged no more strictly.
func FuzzSelector(f *testing.F) {
	for _, s := range []string{
		`device.driver == "gpu.example.com"`, `device.attributes["a.example.com"].model == "x" && device.capacity["a.example.com"].memory.isGreaterThan(quantity("1Gi"))`,
		`cel.bind(a, device.attributes["x"], a.all(k, a[k] == a[k]))`, `semver("1.2.3").isLessThan(semver("2.0.0"))`, `[1,2,3].all(x, [1,2,3].all(y, [1,2,3].all(z, true)))`, `((((`, ``, `"a".matches("(a+)+$")`, `1`, `device.allowMultipleAllocations`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		if len(source) > 2048 {
			t.Skip("larger, not other")
		}
		at := field.NewPath("x")
		if fresh, stored := validateExpression(source, false, at), validateExpression(source, true, at); len(fresh) == 0 && len(stored) > 0 {
			t.Errorf("%q is accepted, and refused once it is stored: %v", source, stored)
		}
	})
}
