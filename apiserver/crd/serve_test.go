package crd_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const cronTabs = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec, description: The schedule}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A table of jobs
        properties:
          spec:
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= self.most", message: too many, reason: FieldValueForbidden, fieldPath: .replicas}
            - {rule: "!has(oldSelf.fixed) || self.fixed == oldSelf.fixed", messageExpression: "'fixed is ' + oldSelf.fixed"}
            properties:
              cronSpec: {type: string, pattern: '^\S+$', maxLength: 10, description: When}
              replicas: {type: integer, default: 1, minimum: 0}
              most: {type: integer, default: 10}
              fixed: {type: string}
              color: {type: string, enum: [red, blue]}
              port: {x-kubernetes-int-or-string: true}
              note: {type: string, nullable: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              items:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, value: {type: string, maxLength: 5}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
          status:
            type: object
            properties:
              replicas: {type: integer}
              labelSelector: {type: string}
`

const tabs = "/apis/stable.example.com/v1/namespaces/default/crontabs"

func tab(name, spec string) string {
	return "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

func get(u *unstructured.Unstructured, path string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, strings.Split(path, ".")...)
	return v
}

func TestDefinitionIsEstablished(t *testing.T) {
	w := newWorld(t)
	w.refused(404, nil, "GET", tabs, "")
	d := w.define(cronTabs)
	if got := condition(d, "Established"); got != "True InitialNamesAccepted" {
		t.Errorf("Established: %q", got)
	}
	if got := get(d, "status.storedVersions"); !reflect.DeepEqual(got, []any{"v1"}) {
		t.Errorf("stored versions %v", got)
	}
	if got := get(d, "status.acceptedNames.listKind"); got != "CronTabList" {
		t.Errorf("list kind %v", got)
	}
	// Served the moment it says so.
	l := w.ok("GET", tabs, "")
	if l.GetKind() != "CronTabList" || l.GetAPIVersion() != "stable.example.com/v1" {
		t.Errorf("list %v", l.Object)
	}
	group := w.ok("GET", "/apis/stable.example.com/v1", "")
	text, _ := json.Marshal(group.Object)
	for _, want := range []string{`"crontabs/scale"`, `"crontabs/status"`, `"shortNames":["ct"]`, `"categories":["all"]`, `"singularName":"crontab"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("discovery lacks %s: %s", want, text)
		}
	}
	_, all, _ := w.do("GET", "/apis", "", "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	if !strings.Contains(all, `"stable.example.com"`) {
		t.Errorf("aggregated discovery lacks the group: %.300s", all)
	}
}

// TestDiscoverySettled: who finds a resource in discovery finds its definition
// settled: established, and not about to be written again.
func TestDiscoverySettled(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		name := fmt.Sprintf("settled%ds", i)
		w.ok("POST", definitionsPath, strings.NewReplacer("crontabs", name, "crontab", name[:len(name)-1], "CronTab", fmt.Sprintf("Settled%d", i), "[ct]", "[]").Replace(cronTabs))
		w.until("/apis/stable.example.com/v1", func(u *unstructured.Unstructured) bool {
			text, _ := json.Marshal(u)
			return strings.Contains(string(text), `"`+name+`"`)
		})
		d := w.ok("GET", definitionsPath+"/"+name+".stable.example.com", "")
		if got := condition(d, "Established"); got != "True InitialNamesAccepted" {
			t.Fatalf("%s is listed, but established: %q", name, got)
		}
		text, _ := json.Marshal(d)
		w.ok("PUT", definitionsPath+"/"+d.GetName(), string(text), "Content-Type: application/json")
	}
}

func TestObjects(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	u := w.ok("POST", tabs, tab("a", `{cronSpec: "*", note: null, unknown: 1, items: [{name: x, more: 2}], free: {any: {thing: 1}}}`))
	for path, want := range map[string]any{
		"spec.replicas": int64(1), "spec.most": int64(10), "spec.note": nil, "spec.unknown": nil,
		"spec.free.any.thing": int64(1), "metadata.generation": int64(1), "kind": "CronTab",
	} {
		if got := get(u, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if _, ok := get(u, "spec").(map[string]any)["note"]; !ok {
		t.Error("a nullable null is gone")
	}
	// status is another endpoint's
	u = w.ok("PATCH", tabs+"/a", `{"spec":{"replicas":3},"status":{"replicas":9}}`, "Content-Type: application/merge-patch+json")
	if get(u, "status") != nil || get(u, "spec.replicas") != int64(3) || u.GetGeneration() != 2 {
		t.Errorf("patched: %v", u.Object)
	}
	u = w.ok("PATCH", tabs+"/a/status", `{"spec":{"replicas":4},"status":{"replicas":2,"labelSelector":"a=b"}}`, "Content-Type: application/merge-patch+json")
	if get(u, "status.replicas") != int64(2) || get(u, "spec.replicas") != int64(3) || u.GetGeneration() != 2 {
		t.Errorf("status patched: %v", u.Object)
	}
	s := w.ok("GET", tabs+"/a/scale", "")
	if s.GetKind() != "Scale" || get(s, "spec.replicas") != int64(3) || get(s, "status.selector") != "a=b" {
		t.Errorf("scale: %v", s.Object)
	}
	w.ok("PATCH", tabs+"/a/scale", `{"spec":{"replicas":5}}`, "Content-Type: application/merge-patch+json")
	u = w.ok("PATCH", tabs+"/a", `[{"op":"add","path":"/metadata/labels","value":{"l":"1"}}]`, "Content-Type: application/json-patch+json")
	if get(u, "spec.replicas") != int64(5) || u.GetLabels()["l"] != "1" || u.GetGeneration() != 3 {
		t.Errorf("scaled: %v", u.Object)
	}
	u.Object["spec"].(map[string]any)["color"] = "red"
	body, _ := json.Marshal(u.Object)
	w.ok("PUT", tabs+"/a", string(body), "Content-Type: application/json")
	w.ok("POST", tabs, tab("b", `{cronSpec: "*", color: blue}`))
	for sel, want := range map[string]string{"labelSelector=l%3D1": "a", "fieldSelector=spec.color%3Dblue": "b", "fieldSelector=metadata.name%3Da": "a"} {
		l := w.ok("GET", tabs+"?"+sel, "")
		items := get(l, "items").([]any)
		if len(items) != 1 || items[0].(map[string]any)["metadata"].(map[string]any)["name"] != want || items[0].(map[string]any)["kind"] != "CronTab" {
			t.Errorf("%s selects %v", sel, items)
		}
	}
	w.refused(400, []string{"field label not supported: spec.most"}, "GET", tabs+"?fieldSelector=spec.most%3D1", "")
	w.refused(406, nil, "GET", tabs, "", "Accept: application/vnd.kubernetes.protobuf")
	_, meta, _ := w.do("GET", tabs+"/a", "", "Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	if !strings.Contains(meta, `"PartialObjectMetadata"`) || strings.Contains(meta, "cronSpec\":\"") {
		t.Errorf("metadata: %s", meta)
	}
	// kubectl names the options after the resource's version.
	st := w.ok("DELETE", tabs+"/a", `{"kind":"DeleteOptions","apiVersion":"stable.example.com/v1","propagationPolicy":"Background"}`, "Content-Type: application/json")
	if st.GetKind() != "Status" {
		t.Errorf("deleted: %v", st.Object)
	}
	w.ok("DELETE", tabs, "")
	if l := w.ok("GET", tabs, ""); len(get(l, "items").([]any)) != 0 {
		t.Errorf("left: %v", l.Object)
	}
}

func TestTable(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	w.ok("POST", tabs, tab("a", `{cronSpec: "*/5"}`))
	l := w.ok("GET", tabs, "", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1")
	var names []string
	for _, c := range get(l, "columnDefinitions").([]any) {
		names = append(names, c.(map[string]any)["name"].(string))
	}
	if want := []string{"Name", "Spec", "Replicas", "Age"}; !reflect.DeepEqual(names, want) {
		t.Errorf("columns %v, want %v", names, want)
	}
	cells := get(l, "rows").([]any)[0].(map[string]any)["cells"].([]any)
	if !reflect.DeepEqual(cells[:3], []any{"a", "*/5", int64(1)}) || !strings.HasSuffix(cells[3].(string), "s") {
		t.Errorf("cells %v", cells)
	}
}

func TestRefusedObjects(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	for spec, want := range map[string]string{
		`{}`:                                                  "spec.cronSpec: Required value",
		`{cronSpec: 1}`:                                       `spec.cronSpec: Invalid value: "integer": spec.cronSpec in body must be of type string: "integer"`,
		`{cronSpec: "a b"}`:                                   `spec.cronSpec: Invalid value: "a b": spec.cronSpec in body should match '^\S+$'`,
		`{cronSpec: "12345678901"}`:                           `spec.cronSpec: Too long: may not be more than 10 bytes`,
		`{cronSpec: "*", color: green}`:                       `spec.color: Unsupported value: "green": supported values: "red", "blue"`,
		`{cronSpec: "*", replicas: -1}`:                       `spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0`,
		`{cronSpec: "*", replicas: 20}`:                       `spec.replicas: Forbidden: too many`,
		`{cronSpec: "*", port: {}}`:                           `spec.port: Invalid value: "object": spec.port in body must be of type`,
		`{cronSpec: "*", tags: [a, a]}`:                       `spec.tags[1]: Duplicate value: "a"`,
		`{cronSpec: "*", template: {}}`:                       `spec.template.apiVersion: Required value`,
		`{cronSpec: "*", items: [{name: a}, {name: a}]}`:      `spec.items[1]: Duplicate value: {"name":"a"}`,
		`{cronSpec: "*", items: [{name: a, value: toolong}]}`: `spec.items[0].value: Too long: may not be more than 5 bytes`,
		`{cronSpec: 1, replicas: 20}`:                         `some validation rules were not checked because the object was invalid; correct the existing errors to complete validation`,
	} {
		w.refused(422, []string{`CronTab.stable.example.com "x" is invalid: `, want}, "POST", tabs, tab("x", spec))
	}
	w.refused(400, []string{`strict decoding error: unknown field "spec.b", unknown field "spec.items[0].c"`}, "POST", tabs+"?fieldValidation=Strict", tab("x", `{cronSpec: "*", b: 1, items: [{name: a, c: 1}]}`))
	w.refused(400, []string{`strict decoding error: duplicate field "spec.cronSpec"`}, "POST", tabs+"?fieldValidation=Strict",
		`{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"x"},"spec":{"cronSpec":"a","cronSpec":"b"}}`, "Content-Type: application/json")
	_, _, h := w.do("POST", tabs, tab("w", `{cronSpec: "*", b: 1}`))
	if got := h.Get("Warning"); got != `299 - "unknown field \"spec.b\""` {
		t.Errorf("warning %q", got)
	}
	w.refused(422, []string{`unknown field "spec.b"`}, "PATCH", tabs+"/w?fieldValidation=Strict", `{"spec":{"b":1}}`, "Content-Type: application/merge-patch+json")
	w.refused(400, []string{"the API version in the data (stable.example.com/v2) does not match the expected API version (stable.example.com/v1)"}, "POST", tabs,
		strings.Replace(tab("x", `{cronSpec: "*"}`), "/v1", "/v2", 1))
	w.refused(415, []string{"accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"}, "PATCH", tabs+"/w", `{}`,
		"Content-Type: application/strategic-merge-patch+json")
	w.refused(400, []string{"Object 'Kind' is missing in"}, "POST", tabs, `{"metadata":{"name":"x"}}`, "Content-Type: application/json")
}

func TestTransitionRulesAndRatcheting(t *testing.T) {
	w := newWorld(t)
	d := w.define(cronTabs)
	w.ok("POST", tabs, tab("a", `{cronSpec: "*", fixed: one, items: [{name: a, value: okay}]}`))
	merge := "Content-Type: application/merge-patch+json"
	w.refused(422, []string{`spec: Invalid value: `, `fixed is one`}, "PATCH", tabs+"/a", `{"spec":{"fixed":"two"}}`, merge)

	// A stricter schema does not stand in the way of what does not touch it.
	path := definitionsPath + "/" + d.GetName()
	cur := w.ok("GET", path, "")
	text, _ := json.Marshal(cur.Object)
	text = []byte(strings.NewReplacer(`"maxLength":5`, `"maxLength":2`, `"pattern":"^\\S+$"`, `"pattern":"^x$"`).Replace(string(text)))
	w.ok("PUT", path, string(text), "Content-Type: application/json")
	w.until(tabs, func(*unstructured.Unstructured) bool {
		code, _, _ := w.do("POST", tabs+"?dryRun=All", tab("b", `{cronSpec: "*"}`))
		return code == 422
	})
	w.ok("PATCH", tabs+"/a", `{"metadata":{"labels":{"a":"b"}}}`, merge)
	w.ok("PATCH", tabs+"/a", `{"spec":{"replicas":2,"items":[{"name":"b","value":"1"},{"name":"a","value":"okay"}]}}`, merge)
	w.refused(422, []string{`spec.cronSpec: Invalid value: "y"`}, "PATCH", tabs+"/a", `{"spec":{"cronSpec":"y"}}`, merge)
	w.refused(422, []string{`spec.items[0].value: Too long`}, "PATCH", tabs+"/a", `{"spec":{"items":[{"name":"a","value":"other"}]}}`, merge)
}

func TestApply(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	apply := "Content-Type: application/apply-patch+yaml"
	u := w.ok("PATCH", tabs+"/a?fieldManager=one", tab("a", `{cronSpec: "*", items: [{name: x, value: "1"}], tags: [p]}`), apply)
	if n := len(u.GetManagedFields()); n != 1 {
		t.Fatalf("%d managers: %v", n, u.GetManagedFields())
	}
	u = w.ok("PATCH", tabs+"/a?fieldManager=two", tab("a", `{items: [{name: v, value: "2"}], tags: [q]}`), apply)
	if items, tags := get(u, "spec.items").([]any), get(u, "spec.tags").([]any); len(items) != 2 || len(tags) != 2 {
		t.Errorf("not merged by key: %v %v", items, tags)
	}
	w.refused(409, []string{`Apply failed with 1 conflict: conflict with "one": .spec.cronSpec`}, "PATCH", tabs+"/a?fieldManager=two", tab("a", `{cronSpec: x}`), apply)
	u = w.ok("PATCH", tabs+"/a?fieldManager=one", tab("a", `{cronSpec: "*"}`), apply)
	if items := get(u, "spec.items").([]any); len(items) != 1 {
		t.Errorf("what one gave up stays: %v", items)
	}
	w.refused(500, []string{".spec.nonsense: field not declared in schema"}, "PATCH", tabs+"/a?fieldManager=one", tab("a", `{nonsense: 1}`), apply)
}

func TestApplyDefinition(t *testing.T) {
	w := newWorld(t)
	apply := "Content-Type: application/apply-patch+yaml"
	path := definitionsPath + "/crontabs.stable.example.com"
	d := w.ok("PATCH", path+"?fieldManager=one", cronTabs, apply)
	if len(d.GetManagedFields()) != 1 {
		t.Errorf("managers: %v", d.GetManagedFields())
	}
	w.until(path, func(u *unstructured.Unstructured) bool {
		return condition(u, "Established") == "True InitialNamesAccepted"
	})
	again := w.ok("PATCH", path+"?fieldManager=one", cronTabs, apply)
	if again.GetGeneration() != 1 {
		t.Errorf("generation %d after the same again", again.GetGeneration())
	}
	w.ok("POST", tabs, tab("a", `{cronSpec: "*"}`))
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	rv := w.ok("GET", tabs, "").GetResourceVersion()
	resp, err := http.Get(w.url + tabs + "?watch=1&resourceVersion=" + rv)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	w.ok("POST", tabs, tab("a", `{cronSpec: "*"}`))
	w.ok("PATCH", tabs+"/a", `{"spec":{"replicas":2}}`, "Content-Type: application/merge-patch+json")
	w.ok("DELETE", tabs+"/a", "")
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"ADDED", "MODIFIED", "DELETED"} {
		if !lines.Scan() {
			t.Fatal("the watch ended", lines.Err())
		}
		var ev struct {
			Type   string
			Object map[string]any
		}
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Type != want || ev.Object["kind"] != "CronTab" || ev.Object["apiVersion"] != "stable.example.com/v1" {
			t.Errorf("event %s, want %s", lines.Bytes(), want)
		}
	}
	// A definition that goes ends the watches of its objects.
	w.ok("DELETE", definitionsPath+"/crontabs.stable.example.com", "")
	for lines.Scan() {
	}
}

func TestDefinitionGoesWithItsObjects(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	w.ok("POST", tabs, tab("a", `{cronSpec: "*"}`))
	w.ok("POST", tabs, strings.Replace(tab("b", `{cronSpec: "*"}`), "{name: b}", "{name: b, finalizers: [example.com/wait]}", 1))
	path := definitionsPath + "/crontabs.stable.example.com"
	d := w.ok("DELETE", path, "")
	if d.GetDeletionTimestamp() == nil || len(d.GetFinalizers()) != 1 || condition(d, "Terminating") != "True InstanceDeletionPending" {
		t.Errorf("deletion began with %v", d.Object)
	}
	w.until(tabs+"/a", func(u *unstructured.Unstructured) bool { return u == nil })
	w.refused(403, []string{"create not allowed while custom resource definition is terminating"}, "POST", tabs, tab("c", `{cronSpec: "*"}`))
	listed, _ := json.Marshal(w.ok("GET", "/apis/stable.example.com/v1", ""))
	if !strings.Contains(string(listed), `"verbs":["delete","deletecollection","get","list","watch"]`) {
		t.Errorf("a definition that ends lists %s", listed)
	}
	w.ok("PATCH", tabs+"/b", `{"metadata":{"finalizers":null}}`, "Content-Type: application/merge-patch+json")
	w.until(path, func(u *unstructured.Unstructured) bool { return u == nil })
	w.until(tabs, func(u *unstructured.Unstructured) bool { return u == nil })
	w.refused(404, nil, "GET", "/apis/stable.example.com/v1", "")
	// It comes back empty.
	w.define(cronTabs)
	if l := w.ok("GET", tabs, ""); len(get(l, "items").([]any)) != 0 {
		t.Errorf("left over: %v", l.Object)
	}
}

func TestNamesInConflict(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	other := strings.NewReplacer("crontabs", "cronthings", "kind: CronTab", "kind: CronThing").Replace(cronTabs)
	d := w.define(other)
	if got := condition(d, "NamesAccepted"); got != "False ShortNamesConflict" {
		t.Errorf("NamesAccepted: %q", got)
	}
	if got := condition(d, "Established"); got != "False NotAccepted" {
		t.Errorf("Established: %q", got)
	}
	w.refused(404, nil, "GET", strings.Replace(tabs, "crontabs", "cronthings", 1), "")
	w.ok("DELETE", definitionsPath+"/crontabs.stable.example.com", "")
	w.until(definitionsPath+"/cronthings.stable.example.com", func(u *unstructured.Unstructured) bool {
		return condition(u, "Established") == "True InitialNamesAccepted"
	})
}

func TestServedAgainAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.define(cronTabs)
	w.ok("POST", tabs, tab("a", `{cronSpec: "*"}`))
	again := serve(t, w.etcd)
	if u := again.ok("GET", tabs+"/a", ""); get(u, "spec.replicas") != int64(1) {
		t.Errorf("%v", u.Object)
	}
}
