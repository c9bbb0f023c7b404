package discovery_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/discovery"
)

// Groups of other servers stand where their priority says, and change the
// order of no others.
func TestWithKeepsTheOrder(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	here := discovery.Groups(table.Kinds)
	extra := func(group, version string, gp, vp int32) discovery.Version {
		return discovery.Version{GV: schema.GroupVersion{Group: group, Version: version}, Priority: discovery.Priority{Group: gp, Version: vp}}
	}
	names := func(groups []discovery.Group) (out []string) {
		for _, g := range groups {
			out = append(out, g.Name)
		}
		return out
	}
	got := discovery.With(here, []discovery.Version{
		extra("late.example.com", "v1", 1, 1), extra("early.example.com", "v1", 20000, 1),
		extra("early.example.com", "v1beta1", 1, 2), extra("early.example.com", "v2", 1, 1), extra("apps", "v2", 1, 1),
	})
	all := names(got)
	if all[0] != "" || all[1] != "apiregistration.k8s.io" || all[2] != "early.example.com" || all[len(all)-1] != "late.example.com" {
		t.Errorf("order %v", all)
	}
	all = slices.DeleteFunc(all, func(n string) bool { return strings.HasSuffix(n, "example.com") })
	if want := names(here); !slices.Equal(all, want) {
		t.Errorf("built-in groups in the order %v, want %v", all, want)
	}
	for _, g := range got {
		var versions []string
		for _, v := range g.Versions {
			versions = append(versions, v.GV.Version)
		}
		want := map[string]string{"early.example.com": "v1beta1 v2 v1", "apps": "v1 v2"}[g.Name]
		if want != "" && strings.Join(versions, " ") != want {
			t.Errorf("%s: %v, want %s", g.Name, versions, want)
		}
	}
	for _, g := range here {
		if g.Name == "apps" && len(g.Versions) != 1 {
			t.Error("what With was given has changed")
		}
	}
}
