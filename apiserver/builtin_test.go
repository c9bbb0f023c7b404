package apiserver_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/fields"
	"github.com/coxswain/cox/apiserver/openapi"
	"github.com/coxswain/cox/client"
	"github.com/coxswain/cox/store/storetest"
)

// builtinWorld is a world with every built-in kind.
func builtinWorld(t testing.TB, change ...func(*apiserver.Config)) *world {
	t.Helper()
	tab, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	st, _ := storetest.Start(t, tab)
	change = append([]func(*apiserver.Config){func(c *apiserver.Config) { c.Table, c.Store = tab, st.Kind }}, change...)
	return newWorld(t, change...)
}

// TestEveryKindIsTracked: field management knows every stored kind.
func TestEveryKindIsTracked(t *testing.T) {
	tab, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range tab.Kinds {
		if k.Prefix == "" {
			continue
		}
		for i := range k.Views {
			gvk := k.Views[i].GroupVersionKind
			c, err := fields.Converter(tab.Scheme, gvk)
			if err != nil { // as the server does for what client-go does not know
				c, err = openapi.TypeConverter(gvk.GroupVersion())
			}
			if err != nil {
				t.Errorf("%v: %v", gvk, err)
				continue
			}
			obj := k.Views[i].New()
			obj.GetObjectKind().SetGroupVersionKind(gvk)
			if _, err := c.ObjectToTyped(obj); err != nil {
				t.Errorf("%v: %v", gvk, err)
			}
		}
	}
}

// TestViewsShareOwners: what is applied through one version conflicts with a
// change through another, and reads the same through both.
func TestViewsShareOwners(t *testing.T) {
	w := builtinWorld(t)
	const hpa = `{"apiVersion":"autoscaling/%s","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"spec":{"maxReplicas":%d,"scaleTargetRef":{"kind":"Deployment","name":"d","apiVersion":"apps/v1"}%s}}`
	path := func(v string) string {
		return "/apis/autoscaling/" + v + "/namespaces/default/horizontalpodautoscalers/h"
	}
	resp, body := w.http("PATCH", path("v1")+"?fieldManager=one", fmt.Sprintf(hpa, "v1", 3, `,"targetCPUUtilizationPercentage":50`), "Content-Type", string(types.ApplyYAMLPatchType))
	if resp.StatusCode != 201 || !strings.Contains(body, `"targetCPUUtilizationPercentage":50`) {
		t.Fatal(resp.StatusCode, body)
	}
	resp, body = w.http("PATCH", path("v2")+"?fieldManager=two", fmt.Sprintf(hpa, "v2", 5, ""), "Content-Type", string(types.ApplyYAMLPatchType))
	if resp.StatusCode != 409 || !strings.Contains(body, `conflict with \"one\": .spec.maxReplicas`) {
		t.Error(resp.StatusCode, body)
	}
	resp, body = w.http("PATCH", path("v2")+"?fieldManager=two", `{"spec":{"maxReplicas":7}}`, "Content-Type", string(types.MergePatchType))
	if resp.StatusCode != 200 || !strings.Contains(body, `"averageUtilization":50`) || !strings.Contains(body, `"apiVersion":"autoscaling/v1","time"`) {
		t.Error(resp.StatusCode, body)
	}
	if _, body = w.http("GET", path("v1"), ""); !strings.Contains(body, `"maxReplicas":7`) || !strings.Contains(body, `"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v1"`) {
		t.Error(body)
	}
}

// TestConcurrentPatches: patches that race are all applied, none twice.
func TestConcurrentPatches(t *testing.T) {
	w := newWorld(t)
	if _, err := client.ConfigMaps.In(w.local, "default").Create(t.Context(), configMap("default", "c", nil)); err != nil {
		t.Fatal(err)
	}
	const writers = 16
	var wg sync.WaitGroup
	for i := range writers {
		door := w.local
		if i%2 == 1 {
			door = w.remote
		}
		wg.Go(func() {
			patch := fmt.Sprintf(`{"data":{"k%d":"v"}}`, i)
			if _, err := client.ConfigMaps.In(door, "default").Patch(t.Context(), "c", types.MergePatchType, []byte(patch)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, err := client.ConfigMaps.In(w.remote, "default").Get(t.Context(), "c")
	if err != nil || len(c.Data) != writers {
		t.Errorf("%v: %d of %d patches", err, len(c.Data), writers)
	}
}

// TestManyManagers: beyond ten, the oldest updaters become one.
func TestManyManagers(t *testing.T) {
	w := newWorld(t)
	for i := range 14 {
		req := &client.Request{Verb: client.Patch, Resource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, Namespace: "default", Name: "c",
			PatchType: types.MergePatchType, Patch: fmt.Appendf(nil, `{"data":{"k%d":"v"}}`, i), Options: client.Options{FieldManager: fmt.Sprint("m", i)}}
		if i == 0 {
			req = &client.Request{Verb: client.Create, Resource: req.Resource, Namespace: "default", Object: configMap("default", "c", map[string]string{"a": "b"}), Options: req.Options}
		}
		if _, err := w.local.Do(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.ConfigMaps.In(w.local, "default").Get(t.Context(), "c")
	if err != nil || len(c.ManagedFields) != 10 {
		t.Errorf("%v: %d managers", err, len(c.ManagedFields))
	}
}

// TestEventsOfTheOlderAPI: an event's own fields are checked first, and where
// they are right its metadata, as loosely as a path.
func TestEventsOfTheOlderAPI(t *testing.T) {
	w := builtinWorld(t)
	const path = "/api/v1/namespaces/default/events?dryRun=All"
	for _, tt := range []struct {
		body string
		code int
		want string
	}{
		{`{"involvedObject":{"namespace":"other"}}`, 422, `"message":"Event \"\" is invalid: involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"`},
		{`{"involvedObject":{"namespace":"default"}}`, 422, `"message":"Event \"\" is invalid: metadata.name: Required value: name or generateName is required"`},
		{`{"metadata":{"name":"BAD_"},"involvedObject":{"namespace":"default"}}`, 201, `"name":"BAD_"`},
		{`{"metadata":{"name":"a/b"},"involvedObject":{"namespace":"default"}}`, 422, `metadata.name: Invalid value: \"a/b\": may not contain '/'`},
	} {
		if resp, body := w.http("POST", path, tt.body, "Content-Type", asJSON); resp.StatusCode != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s", tt.body, resp.StatusCode, body)
		}
	}
}
