package flow

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/client"
)

// The defaults are complete (defaulting changes nothing), valid, and refer to
// levels that exist.
func TestDefaultsAreValid(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	check := func(gvk string, obj runtime.Object) {
		k, ok := table.Kind(flowcontrolv1.SchemeGroupVersion.WithKind(gvk))
		if !ok {
			t.Fatalf("no kind %s", gvk)
		}
		k.Strategy.Default(obj)
		if errs := k.Strategy.Validate(obj); len(errs) > 0 {
			t.Errorf("%s %s: %v", gvk, obj.(client.Object).GetName(), errs)
		}
	}
	levels := map[string]bool{}
	for _, l := range DefaultLevels() {
		check("PriorityLevelConfiguration", l)
		levels[l.Name] = true
	}
	seen := map[string]bool{}
	for _, s := range DefaultSchemas() {
		check("FlowSchema", s)
		if !levels[s.Spec.PriorityLevelConfiguration.Name] || seen[s.Name] {
			t.Errorf("flow schema %s: level %s", s.Name, s.Spec.PriorityLevelConfiguration.Name)
		}
		seen[s.Name] = true
	}
}
