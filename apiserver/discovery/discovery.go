// Package discovery tells clients what is served: the table of kinds goes in,
// the documents under /api and /apis come out, in their old and in their
// aggregated form.
package discovery

import (
	"crypto/sha256"
	"encoding/base64"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/coxswain/cox/api"
)

// Group is what is served of one API group.
type Group struct {
	Name     string
	Versions []Version // best first
}

// Version is what is served of one group version.
type Version struct {
	GV        schema.GroupVersion
	Resources []metav1.APIResource // by name; "pods/status" follows "pods"
	// Priority is what an APIService says; zero is LocalPriority.
	Priority Priority
	// Stale says that the server behind the version did not answer: what it
	// serves now may differ.
	Stale bool
}

// order is how upstream lists its groups; others follow by name.
var order = strings.Fields(`apiregistration.k8s.io apps events.k8s.io authentication.k8s.io
	authorization.k8s.io autoscaling batch certificates.k8s.io networking.k8s.io policy
	rbac.authorization.k8s.io storage.k8s.io admissionregistration.k8s.io apiextensions.k8s.io
	scheduling.k8s.io coordination.k8s.io node.k8s.io discovery.k8s.io resource.k8s.io
	flowcontrol.apiserver.k8s.io internal.apiserver.k8s.io storagemigration.k8s.io`)

// Groups lists the groups of a table, the core group ("") first.
func Groups(kinds []*api.Kind) []Group {
	byGV := map[schema.GroupVersion][]metav1.APIResource{}
	for _, k := range kinds {
		for i := range k.Views {
			v := &k.Views[i]
			gv := v.GroupVersion()
			byGV[gv] = append(byGV[gv], resources(k, v)...)
		}
	}
	byGroup := map[string][]Version{}
	for gv, rs := range byGV {
		sort.Slice(rs, func(i, j int) bool { return rs[i].Name < rs[j].Name })
		byGroup[gv.Group] = append(byGroup[gv.Group], Version{GV: gv, Resources: rs})
	}
	rank := map[string]int{"": -1}
	for i, g := range order {
		rank[g] = i - len(order)
	}
	rank[""] = -len(order) - 1
	var out []Group
	for name, versions := range byGroup {
		sort.Slice(versions, func(i, j int) bool {
			return version.CompareKubeAwareVersionStrings(versions[i].GV.Version, versions[j].GV.Version) > 0
		})
		out = append(out, Group{name, versions})
	}
	sort.Slice(out, func(i, j int) bool {
		if a, b := rank[out[i].Name], rank[out[j].Name]; a != b {
			return a < b
		}
		return out[i].Name < out[j].Name
	})
	return out
}

// resources lists a kind and its subresources as one of its views shows them.
func resources(k *api.Kind, v *api.View) []metav1.APIResource {
	main := metav1.APIResource{
		Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: v.Kind,
		Verbs: mainVerbs(k), ShortNames: k.ShortNames, Categories: k.Categories,
	}
	if v.ShortNames != nil {
		main.ShortNames = v.ShortNames
	}
	if k.Prefix != "" {
		main.StorageVersionHash = StorageVersionHash(k.StorageGVK())
	}
	out := []metav1.APIResource{main}
	for name, sub := range k.SubresourcesOf(v) {
		r := metav1.APIResource{Name: k.Resource + "/" + name, Namespaced: k.Namespaced, Kind: v.Kind}
		verbs, gvk := subVerbs(name, sub)
		if !gvk.Empty() {
			r.Kind = gvk.Kind
			if gvk.GroupVersion() != v.GroupVersion() {
				r.Group, r.Version = gvk.Group, gvk.Version
			}
		}
		r.Verbs = verbs
		out = append(out, r)
	}
	return out
}

func mainVerbs(k *api.Kind) []string {
	verbs := k.Verbs
	switch {
	case verbs != nil:
	case k.Prefix == "":
		verbs = []string{"create"}
	case custom(k) && k.Ending:
		return []string{"delete", "deletecollection", "get", "list", "watch"}
	case custom(k): // in upstream's order, which is not sorted
		return []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	default:
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	verbs = append([]string(nil), verbs...)
	sort.Strings(verbs)
	return verbs
}

// custom says whether a kind is known by its definition only.
func custom(k *api.Kind) bool {
	_, ok := k.New().(*unstructured.Unstructured)
	return ok
}

// subVerbs returns what a subresource can do and, where it is not the
// object's own, its kind.
func subVerbs(name string, sub api.Subresource) (verbs []string, gvk schema.GroupVersionKind) {
	verbs = []string{"get", "patch", "update"}
	switch {
	case sub.Project != nil:
		gvk = sub.Project.GVK
	case sub.Action != nil:
		verbs, gvk = []string{"create"}, sub.Action.GVK
	case sub.Connect != nil:
		verbs, gvk = nil, sub.Connect.Options
		for _, m := range sub.Connect.Methods {
			verbs = append(verbs, methodVerbs[m]...)
		}
		if name == "log" { // shown as a read of the pod
			gvk = schema.GroupVersionKind{}
		}
	}
	if sub.Verbs != nil {
		verbs = append([]string(nil), sub.Verbs...)
	}
	sort.Strings(verbs)
	return verbs, gvk
}

var methodVerbs = map[string][]string{
	"GET": {"get"}, "POST": {"create"}, "PUT": {"update"}, "PATCH": {"patch"}, "DELETE": {"delete"},
	"*": {"create", "delete", "get", "patch", "update"},
}

// StorageVersionHash tells clients when the version in which a kind is stored
// changes; it is the one that upstream computes.
func StorageVersionHash(gvk schema.GroupVersionKind) string {
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}
