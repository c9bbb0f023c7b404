package discovery

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// Priority is where a group version stands among all: groups with the higher
// number first, in a group the versions with the higher number first. See the
// API page of APIService.
type Priority struct{ Group, Version int32 }

// first is the priority of the group that is listed before all others, beyond
// what an APIService may have.
const first = 20001

// groupPriorities are those of 1.36's built-in groups.
var groupPriorities = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700,
	"admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500,
	"node.k8s.io": 16300, "discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
	"internal.apiserver.k8s.io": 16000, "storagemigration.k8s.io": 15800,
}

// versionPriorities are those of built-in versions that differ from 15.
var versionPriorities = map[schema.GroupVersion]int32{
	{Version: "v1"}:                                        1,
	{Group: "autoscaling", Version: "v2"}:                  30,
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21,
	{Group: "resource.k8s.io", Version: "v1"}:              21,
	{Group: "certificates.k8s.io", Version: "v1beta1"}:     9,
	{Group: "storagemigration.k8s.io", Version: "v1beta1"}: 9,
}

// LocalPriority is that of a group version which this server serves itself;
// builtin is false for custom resources.
func LocalPriority(gv schema.GroupVersion) (p Priority, builtin bool) {
	group, ok := groupPriorities[gv.Group]
	if !ok {
		return Priority{Group: 1000, Version: 100}, false
	}
	v, ok := versionPriorities[gv]
	if !ok {
		v = 15
	}
	return Priority{Group: group, Version: v}, true
}

// With adds versions that other servers serve: to their group, in the place
// of what is served here in the same version, or as groups of their own. All
// stand where their priorities put them, a group where the highest of its
// versions' does; the core group stays first.
func With(groups []Group, extra []Version) []Group {
	if len(extra) == 0 {
		return groups
	}
	out := slices.Clone(groups)
	at := map[string]int{}
	for i := range out {
		out[i].Versions = slices.Clone(out[i].Versions)
		at[out[i].Name] = i
	}
	for _, v := range extra {
		i, ok := at[v.GV.Group]
		if !ok {
			i = len(out)
			at[v.GV.Group] = i
			out = append(out, Group{Name: v.GV.Group})
		}
		g := &out[i]
		g.Versions = append(slices.DeleteFunc(g.Versions, func(here Version) bool { return here.GV == v.GV }), v)
	}
	ranks := map[string]int32{}
	for i := range out {
		g := &out[i]
		slices.SortFunc(g.Versions, func(a, b Version) int {
			return cmp.Or(cmp.Compare(b.priority().Version, a.priority().Version),
				version.CompareKubeAwareVersionStrings(b.GV.Version, a.GV.Version))
		})
		for _, v := range g.Versions {
			ranks[g.Name] = max(ranks[g.Name], v.priority().Group)
		}
	}
	ranks["apiregistration.k8s.io"], ranks[""] = first, first+1
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(ranks[b.Name], ranks[a.Name]), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func (v *Version) priority() Priority {
	if v.Priority != (Priority{}) {
		return v.Priority
	}
	p, _ := LocalPriority(v.GV)
	return p
}
