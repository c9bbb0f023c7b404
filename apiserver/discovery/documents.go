package discovery

import (
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Versions is the document at /api.
func Versions(groups []Group, address string) *metav1.APIVersions {
	out := &metav1.APIVersions{
		TypeMeta:                   metav1.TypeMeta{Kind: "APIVersions"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}},
	}
	for _, g := range groups {
		if g.Name == "" {
			for _, v := range g.Versions {
				out.Versions = append(out.Versions, v.GV.Version)
			}
		}
	}
	return out
}

// List is the document at /apis.
func List(groups []Group) *metav1.APIGroupList {
	out := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, g := range groups {
		if g.Name != "" {
			out.Groups = append(out.Groups, *group(g))
		}
	}
	return out
}

// One is the document at /apis/GROUP.
func One(g Group) *metav1.APIGroup {
	out := group(g)
	out.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
	return out
}

func group(g Group) *metav1.APIGroup {
	out := &metav1.APIGroup{Name: g.Name}
	for _, v := range g.Versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.GV.String(), Version: v.GV.Version})
	}
	if len(out.Versions) > 0 {
		out.PreferredVersion = out.Versions[0]
	}
	return out
}

// Resources is the document at /api/v1 and /apis/GROUP/VERSION.
func Resources(v Version) *metav1.APIResourceList {
	out := &metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: v.GV.String(), APIResources: v.Resources,
	}
	if v.GV.Group != "" {
		out.APIVersion = "v1"
	}
	return out
}

// Aggregated is the document at /api (core) or /apis (the other groups) for
// clients that ask for all of discovery at once.
func Aggregated(groups []Group, core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	out := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	for _, g := range groups {
		if (g.Name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.Name}}
		for _, v := range g.Versions {
			fresh := apidiscoveryv2.DiscoveryFreshnessCurrent
			if v.Stale {
				fresh = apidiscoveryv2.DiscoveryFreshnessStale
			}
			item.Versions = append(item.Versions, apidiscoveryv2.APIVersionDiscovery{
				Version: v.GV.Version, Resources: aggregate(v.Resources), Freshness: fresh,
			})
		}
		out.Items = append(out.Items, item)
	}
	return out
}

// aggregate puts subresources under their resource. Other servers list some
// whose resource they do not serve, or list later; it is then shown with no
// verbs, and an empty kind rather than none.
func aggregate(list []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	index := map[string]int{}
	for _, r := range list {
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		name, sub, isSub := strings.Cut(r.Name, "/")
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		i, ok := index[name]
		if !ok {
			i = len(out)
			index[name] = i
			out = append(out, apidiscoveryv2.APIResourceDiscovery{Resource: name, ResponseKind: &metav1.GroupVersionKind{}, Scope: scope})
		}
		if isSub {
			out[i].Subresources = append(out[i].Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub, ResponseKind: kind, Verbs: r.Verbs,
			})
			continue
		}
		d := &out[i]
		d.ResponseKind, d.Scope, d.SingularResource = kind, scope, r.SingularName
		d.Verbs, d.ShortNames, d.Categories = r.Verbs, r.ShortNames, r.Categories
	}
	return out
}
