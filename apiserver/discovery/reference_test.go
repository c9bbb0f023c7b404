package discovery_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/discovery"
)

// reference finds upstream's documents: in $COX_REFERENCE, or beside the
// repository.
func reference(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("COX_REFERENCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "reference")
	}
	dir = filepath.Join(dir, "discovery")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("no reference documents: set COX_REFERENCE")
	}
	return dir
}

func load(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func normalize(r *metav1.APIResource) {
	sort.Strings(r.Verbs)
}

// metrics is a group that upstream's API server leaves to metrics-server.
const metrics = "metrics.k8s.io"

// TestAgainstUpstream holds what is served of each group version against
// upstream's document. A resource that is not served yet is only logged.
func TestAgainstUpstream(t *testing.T) {
	dir := reference(t)
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range discovery.Groups(table.Kinds) {
		if g.Name == metrics {
			continue
		}
		for _, v := range g.Versions {
			file := "apis__" + g.Name + "__" + v.GV.Version + ".json"
			if g.Name == "" {
				file = "api__v1.json"
			}
			var want metav1.APIResourceList
			load(t, filepath.Join(dir, file), &want)
			byName := map[string]metav1.APIResource{}
			for _, r := range want.APIResources {
				normalize(&r)
				byName[r.Name] = r
			}
			for _, r := range v.Resources {
				normalize(&r)
				w, ok := byName[r.Name]
				if !ok {
					t.Errorf("%s: %s is not upstream's", v.GV, r.Name)
					continue
				}
				delete(byName, r.Name)
				if d := cmp.Diff(w, r); d != "" {
					t.Errorf("%s: %s differs (-upstream +ours):\n%s", v.GV, r.Name, d)
				}
			}
			for name := range byName {
				t.Logf("%s: %s is not served yet", v.GV, name)
			}
		}
	}
}

// TestAggregatedAgainstUpstream does the same for the aggregated form, and
// for the order of groups and versions.
func TestAggregatedAgainstUpstream(t *testing.T) {
	dir := reference(t)
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	var want apidiscoveryv2.APIGroupDiscoveryList
	load(t, filepath.Join(dir, "aggregated_v2.json"), &want)
	ours := map[string]map[string]apidiscoveryv2.APIResourceDiscovery{}
	var order []string
	for _, g := range discovery.Aggregated(discovery.Groups(table.Kinds), false).Items {
		if g.Name == metrics {
			continue
		}
		order = append(order, g.Name)
		for _, v := range g.Versions {
			m := map[string]apidiscoveryv2.APIResourceDiscovery{}
			for _, r := range v.Resources {
				m[r.Resource] = r
			}
			ours[g.Name+"/"+v.Version] = m
			if v.Freshness != "Current" {
				t.Errorf("%s/%s is %s", g.Name, v.Version, v.Freshness)
			}
		}
	}
	var wantOrder []string
	for _, g := range want.Items {
		for _, o := range order {
			if o == g.Name {
				wantOrder = append(wantOrder, o)
			}
		}
		for _, v := range g.Versions {
			for _, r := range v.Resources {
				got, ok := ours[g.Name+"/"+v.Version][r.Resource]
				if !ok {
					continue
				}
				r.Subresources = served(r.Subresources, got.Subresources)
				if d := cmp.Diff(r, got); d != "" {
					t.Errorf("%s/%s: %s differs (-upstream +ours):\n%s", g.Name, v.Version, r.Resource, d)
				}
			}
		}
	}
	if strings.Join(order, " ") != strings.Join(wantOrder, " ") {
		t.Errorf("groups in the order %v, want %v", order, wantOrder)
	}
}

// served keeps of upstream's subresources those that ours have.
func served(upstream, ours []apidiscoveryv2.APISubresourceDiscovery) (out []apidiscoveryv2.APISubresourceDiscovery) {
	for _, u := range upstream {
		for _, o := range ours {
			if u.Subresource == o.Subresource {
				out = append(out, u)
			}
		}
	}
	return out
}

func TestStorageVersionHash(t *testing.T) {
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range table.Kinds {
		if k.Resource == "configmaps" {
			if got := discovery.StorageVersionHash(k.Hub); got != "qFsyl6wFWjQ=" {
				t.Errorf("storage version hash of ConfigMap is %s", got)
			}
		}
	}
}
