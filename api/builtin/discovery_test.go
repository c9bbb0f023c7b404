package builtin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
)

// upstreamResources reads upstream's aggregated discovery, which is no part of
// the tree, by "group/version/resource".
func upstreamResources(t *testing.T) map[string]apidiscoveryv2.APIResourceDiscovery {
	t.Helper()
	dir := os.Getenv("COX_REFERENCE")
	if dir == "" {
		_, file, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(file), "../../../shared/reference")
	}
	out := map[string]apidiscoveryv2.APIResourceDiscovery{}
	add := func(group, version string, r apidiscoveryv2.APIResourceDiscovery) {
		out[group+"/"+version+"/"+r.Resource] = r
	}
	data, err := os.ReadFile(filepath.Join(dir, "discovery", "aggregated_v2.json"))
	if err != nil {
		t.Skipf("no reference documents: %v (set COX_REFERENCE)", err)
	}
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	for _, g := range list.Items {
		for _, v := range g.Versions {
			for _, r := range v.Resources {
				add(g.Name, v.Version, r)
			}
		}
	}
	addCore(t, filepath.Join(dir, "discovery", "api__v1.json"), add)
	return out
}

// addCore reads the core group, which is in a list of its own.
func addCore(t *testing.T, path string, add func(group, version string, r apidiscoveryv2.APIResourceDiscovery)) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	resources := map[string]*apidiscoveryv2.APIResourceDiscovery{}
	for _, r := range list.APIResources {
		name, sub, isSub := strings.Cut(r.Name, "/")
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if isSub {
			resources[name].Subresources = append(resources[name].Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub, Verbs: r.Verbs, ResponseKind: kind,
			})
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		resources[name] = &apidiscoveryv2.APIResourceDiscovery{
			Resource: name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		}
	}
	for _, r := range resources {
		add("", "v1", *r)
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// What a row says of itself is what upstream's discovery says of the kind.
func TestAgainstUpstreamDiscovery(t *testing.T) {
	upstream := upstreamResources(t)
	eachView(t, func(t *testing.T, _ *api.Table, k *api.Kind, v *api.View) {
		want, ok := upstream[v.Group+"/"+v.Version+"/"+k.Resource]
		if !ok {
			t.Fatal("upstream serves no such resource")
		}
		if want.ResponseKind.Kind != v.Kind || want.SingularResource != k.Singular || (want.Scope == apidiscoveryv2.ScopeNamespace) != k.Namespaced {
			t.Errorf("%s, %s, namespaced %v; upstream %s, %s, %s", v.Kind, k.Singular, k.Namespaced, want.ResponseKind.Kind, want.SingularResource, want.Scope)
		}
		short := k.ShortNames
		if v.ShortNames != nil {
			short = v.ShortNames
		}
		if !sameSet(short, want.ShortNames) {
			t.Errorf("short names %v, upstream %v", short, want.ShortNames)
		}
		if !sameSet(k.Categories, want.Categories) {
			t.Errorf("categories %v, upstream %v", k.Categories, want.Categories)
		}
		verbs := k.Verbs
		if verbs == nil {
			verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
		}
		if !sameSet(verbs, want.Verbs) {
			t.Errorf("verbs %v, upstream %v", verbs, want.Verbs)
		}
		compareSubresources(t, k, want.Subresources)
	})
}

func compareSubresources(t *testing.T, k *api.Kind, want []apidiscoveryv2.APISubresourceDiscovery) {
	t.Helper()
	seen := map[string]bool{}
	for _, w := range want {
		seen[w.Subresource] = true
		s, ok := k.Subresources[w.Subresource]
		if !ok {
			t.Errorf("no subresource %s", w.Subresource)
			continue
		}
		verbs := s.Verbs
		if verbs == nil {
			verbs = []string{"get", "patch", "update"}
			if s.Action != nil {
				verbs = []string{"create"}
			}
		}
		if !sameSet(verbs, w.Verbs) {
			t.Errorf("verbs of %s: %v, upstream %v", w.Subresource, verbs, w.Verbs)
		}
		kind := ""
		switch {
		case s.Project != nil:
			kind = s.Project.GVK.Kind
		case s.Action != nil:
			kind = s.Action.GVK.Kind
		default:
			continue
		}
		if kind != w.ResponseKind.Kind {
			t.Errorf("kind of %s: %s, upstream %s", w.Subresource, kind, w.ResponseKind.Kind)
		}
	}
	for name := range k.Subresources {
		if !seen[name] {
			t.Errorf("upstream has no subresource %s", name)
		}
	}
}
