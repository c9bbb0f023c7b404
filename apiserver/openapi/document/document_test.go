package document

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		gv         schema.GroupVersion
		title, tag string
	}{
		{schema.GroupVersion{Version: "v1"}, "CoreV1", "core_v1"},
		{schema.GroupVersion{Group: "apps", Version: "v1"}, "AppsV1", "apps_v1"},
		{schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}, "RbacAuthorizationV1", "rbacAuthorization_v1"},
		{schema.GroupVersion{Group: "flowcontrol.apiserver.k8s.io"}, "FlowcontrolApiserver", "flowcontrolApiserver"},
	} {
		if got := title(c.gv); got != c.title {
			t.Errorf("title of %v: %s, want %s", c.gv, got, c.title)
		}
		if got := tag(c.gv); got != c.tag {
			t.Errorf("tag of %v: %s, want %s", c.gv, got, c.tag)
		}
	}
	for noun, want := range map[string]string{"Pod": "a Pod", "Ingress": "an Ingress", "Endpoints": "Endpoints", "StorageClass": "a StorageClass"} {
		if got := article(noun); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Only plain values become query parameters, under their JSON names.
func TestQuery(t *testing.T) {
	types := map[string]string{}
	for _, p := range query(metav1.DeleteOptions{}, "dryRun") {
		types[p.Name()] = p.DataType()
		if p.Description() == "" {
			t.Errorf("%s has no description", p.Name())
		}
	}
	for name, want := range map[string]string{"gracePeriodSeconds": "integer", "orphanDependents": "boolean", "propagationPolicy": "string"} {
		if types[name] != want {
			t.Errorf("%s is a %q, want %s", name, types[name], want)
		}
	}
	for _, name := range []string{"preconditions", "dryRun", "kind", ""} {
		if _, ok := types[name]; ok {
			t.Errorf("%q is a parameter", name)
		}
	}
}
