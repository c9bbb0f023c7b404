package apiserver_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/coxswain/cox/apiserver"
)

// TestDeprecatedVersions: who uses what will be gone shows in the metrics and
// in the audit records.
func TestDeprecatedVersions(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) {
		for _, k := range c.Table.Kinds {
			switch k.Resource {
			case "configmaps":
				k.Views[0].Deprecated = "v1 ConfigMap is deprecated in v1.33+; use another"
			case "deployments":
				k.Views[0].Deprecated = "apps/v1 Deployment is deprecated in v1.19+, unavailable in v1.40+"
			}
		}
	})
	for path, want := range map[string]map[string]string{
		"/api/v1/namespaces/default/pods":                   {},
		cmPath + "/none":                                    {"k8s.io/deprecated": "true"},
		"/apis/apps/v1/namespaces/default/deployments":      {"k8s.io/deprecated": "true", "k8s.io/removed-release": "1.40"},
		"/apis/apps/v1/namespaces/default/deployments/none": {"k8s.io/deprecated": "true", "k8s.io/removed-release": "1.40"},
	} {
		w.events.take()
		w.http("GET", path, "")
		got := maps.Clone(w.events.last().Annotations)
		maps.DeleteFunc(got, func(k, _ string) bool { return !strings.HasPrefix(k, "k8s.io/") })
		if !maps.Equal(got, want) {
			t.Errorf("%s: recorded %v, want %v", path, got, want)
		}
	}
	const name = "apiserver_requested_deprecated_apis"
	_, body := w.http("GET", "/metrics", "")
	if strings.Count(body, "\n"+name+"{") != 2 ||
		!strings.Contains(body, name+`{group="",removed_release="",resource="configmaps",subresource="",version="v1"} 1`) ||
		!strings.Contains(body, name+`{group="apps",removed_release="1.40",resource="deployments",subresource="",version="v1"} 1`) {
		t.Error(body)
	}
}
