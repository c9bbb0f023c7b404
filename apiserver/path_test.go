package apiserver

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/client"
)

func TestParsePath(t *testing.T) {
	core := func(resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Version: "v1", Resource: resource}
	}
	for path, want := range map[string]target{
		"/api/v1/pods":                                            {gvr: core("pods")},
		"/api/v1/namespaces":                                      {gvr: core("namespaces")},
		"/api/v1/namespaces/a":                                    {gvr: core("namespaces"), name: "a"},
		"/api/v1/namespaces/a/status":                             {gvr: core("namespaces"), name: "a", subresource: "status"},
		"/api/v1/namespaces/a/finalize":                           {gvr: core("namespaces"), name: "a", subresource: "finalize"},
		"/api/v1/namespaces/a/pods":                               {gvr: core("pods"), namespace: "a"},
		"/api/v1/namespaces/a/pods/p/log":                         {gvr: core("pods"), namespace: "a", name: "p", subresource: "log"},
		"/api/v1/namespaces/a/services/https:s:web/proxy/x/y/":    {gvr: core("services"), namespace: "a", name: "https:s:web", subresource: "proxy", rest: "/x/y/"},
		"/api/v1/nodes/n/proxy/":                                  {gvr: core("nodes"), name: "n", subresource: "proxy", rest: "/"},
		"/api/v1/watch/namespaces/a/pods/p":                       {gvr: core("pods"), namespace: "a", name: "p", watch: true},
		"/apis/apps/v1/deployments":                               {gvr: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}},
		"/apis/apps/v1/namespaces/namespaces/deployments/d/scale": {gvr: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, namespace: "namespaces", name: "d", subresource: "scale"},
	} {
		got, ok := parsePath(path)
		if !ok || got != want {
			t.Errorf("%s: %+v %v, want %+v", path, got, ok, want)
		}
	}
	for _, path := range []string{"/", "/api", "/api/", "/api/v1", "/api/v1/", "/apis/apps", "/apis/apps/v1", "/apis/apps/v1/", "/version", "/healthz/ping"} {
		if got, ok := parsePath(path); ok {
			t.Errorf("%s is taken for %+v", path, got)
		}
	}
}

// FuzzPath checks that the path that a request has leads back to it.
func FuzzPath(f *testing.F) {
	f.Add("", "v1", "pods", "ns", "name", "status")
	f.Add("apps", "v1", "deployments", "", "d", "")
	f.Fuzz(func(t *testing.T, group, version, resource, namespace, name, sub string) {
		for _, s := range []string{group, version, resource, namespace, name, sub} {
			for _, r := range s {
				if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
					return
				}
			}
		}
		if version == "" || resource == "" || name == "" || resource == "namespaces" || resource == "watch" || version == "watch" {
			return
		}
		if namespace != "" && (resource == "status" || resource == "finalize") {
			return
		}
		req := &client.Request{Verb: client.Get, Resource: schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, Namespace: namespace, Name: name, Subresource: sub}
		got, ok := parsePath(requestPath(req))
		if want := (target{gvr: req.Resource, namespace: namespace, name: name, subresource: sub}); !ok || got != want {
			t.Errorf("%s: %+v %v, want %+v", requestPath(req), got, ok, want)
		}
	})
}
