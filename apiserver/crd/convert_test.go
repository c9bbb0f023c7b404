package crd_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

const twoVersions = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hosts.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: hosts, kind: Host}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Address, type: string, jsonPath: .hostPort}]
    schema: {openAPIV3Schema: {type: object, properties: {hostPort: {type: string}}}}
  - name: v2
    served: true
    storage: false
    additionalPrinterColumns: [{name: Host, type: string, jsonPath: .host}]
    schema: {openAPIV3Schema: {type: object, properties: {host: {type: string, maxLength: 20}, port: {type: string, default: "80"}}}}
  conversion: CONVERSION
`

const (
	hostsV1 = "/apis/stable.example.com/v1/namespaces/default/hosts"
	hostsV2 = "/apis/stable.example.com/v2/namespaces/default/hosts"
)

// webhook converts hostPort to host and port and back. broken makes it fail
// with its text.
type webhook struct {
	*httptest.Server
	calls, objects atomic.Int64
	broken         atomic.Pointer[string]
}

func newWebhook(t *testing.T) *webhook {
	h := &webhook{}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *webhook) serve(w http.ResponseWriter, r *http.Request) {
	var review extv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.calls.Add(1)
	h.objects.Add(int64(len(review.Request.Objects)))
	resp := &extv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	if why := h.broken.Load(); why != nil {
		resp.Result = metav1.Status{Status: metav1.StatusFailure, Message: *why}
	} else {
		for _, raw := range review.Request.Objects {
			resp.ConvertedObjects = append(resp.ConvertedObjects, runtime.RawExtension{Raw: convertHost(raw.Raw, review.Request.DesiredAPIVersion)})
		}
	}
	review.Request, review.Response = nil, resp
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&review)
}

func convertHost(raw []byte, to string) []byte {
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		panic(err)
	}
	if strings.HasSuffix(to, "/v2") {
		host, port, _ := strings.Cut(fmt.Sprint(m["hostPort"]), ":")
		m["host"], m["port"] = host, port
		delete(m, "hostPort")
	} else {
		m["hostPort"] = fmt.Sprint(m["host"], ":", m["port"])
		delete(m, "host")
		delete(m, "port")
	}
	m["apiVersion"] = to
	out, _ := json.Marshal(m)
	return out
}

func (h *webhook) conversion() string {
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	return fmt.Sprintf(`{strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: %q, caBundle: %s}}}`, h.URL+"/convert", ca)
}

func host(version, name, rest string) string {
	return "apiVersion: stable.example.com/" + version + "\nkind: Host\nmetadata: {name: " + name + "}\n" + rest + "\n"
}

func TestWebhookConversion(t *testing.T) {
	w, h := newWorld(t), newWebhook(t)
	w.define(strings.Replace(twoVersions, "CONVERSION", h.conversion(), 1))
	u := w.ok("POST", hostsV2, host("v2", "a", "host: example.com"))
	if u.GetAPIVersion() != "stable.example.com/v2" || u.Object["host"] != "example.com" || u.Object["port"] != "80" {
		t.Errorf("created: %v", u.Object)
	}
	if u := w.ok("GET", hostsV1+"/a", ""); u.Object["hostPort"] != "example.com:80" {
		t.Errorf("stored: %v", u.Object)
	}
	w.ok("POST", hostsV1, host("v1", "b", "hostPort: other:1"))
	w.ok("POST", hostsV1, host("v1", "c", "hostPort: third:1"))
	before := h.calls.Load()
	l := w.ok("GET", hostsV2, "")
	if n := h.calls.Load() - before; n > 1 {
		t.Errorf("%d calls for one list", n)
	}
	if items := get(l, "items").([]any); len(items) != 3 || items[1].(map[string]any)["host"] != "other" {
		t.Errorf("list %v", items)
	}
	before = h.calls.Load()
	w.ok("GET", hostsV2, "")
	if h.calls.Load() != before {
		t.Error("converted again although nothing has changed")
	}
	u = w.ok("PATCH", hostsV2+"/b", `{"port":"2"}`, "Content-Type: application/merge-patch+json")
	if u.Object["port"] != "2" {
		t.Errorf("patched: %v", u.Object)
	}
	w.refused(422, []string{"host: Too long"}, "PATCH", hostsV2+"/b", `{"host":"123456789012345678901"}`, "Content-Type: application/merge-patch+json")
	w.ok("PATCH", hostsV1+"/b", `{"hostPort":"123456789012345678901:1"}`, "Content-Type: application/merge-patch+json")
	for version, want := range map[string]string{hostsV1: "Address", hostsV2: "Host"} {
		tb := w.ok("GET", version, "", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1")
		if name := get(tb, "columnDefinitions").([]any)[1].(map[string]any)["name"]; name != want {
			t.Errorf("column %v, want %s", name, want)
		}
	}
	why := "no more today"
	h.broken.Store(&why)
	w.ok("POST", hostsV1, host("v1", "d", "hostPort: x:1"))
	w.refused(500, []string{"conversion webhook for stable.example.com/v1, Kind=Host failed: no more today"}, "GET", hostsV2+"/d", "")
	w.ok("GET", hostsV1+"/d", "") // needs no conversion
	w.ok("DELETE", definitionsPath+"/hosts.stable.example.com", "")
	w.until(definitionsPath+"/hosts.stable.example.com", func(u *unstructured.Unstructured) bool { return u == nil })
}

// TestFieldsAfterConversion: objects are selected by what the requested version
// shows, in lists and in watches.
func TestFieldsAfterConversion(t *testing.T) {
	w, h := newWorld(t), newWebhook(t)
	w.define(strings.Replace(strings.Replace(twoVersions, "CONVERSION", h.conversion(), 1),
		"    additionalPrinterColumns: [{name: Host,", "    selectableFields: [{jsonPath: .host}]\n    additionalPrinterColumns: [{name: Host,", 1))
	w.ok("POST", hostsV1, host("v1", "a", "hostPort: one:1"))
	w.ok("POST", hostsV1, host("v1", "b", "hostPort: two:1"))
	w.refused(400, []string{"field label not supported: host"}, "GET", hostsV1+"?fieldSelector=host%3Done", "")
	l := w.ok("GET", hostsV2+"?fieldSelector=host%3Dtwo", "")
	if items := get(l, "items").([]any); len(items) != 1 || items[0].(map[string]any)["host"] != "two" {
		t.Errorf("list: %v", items)
	}
	if l := w.ok("GET", hostsV2+"?fieldSelector=host%3Dtwo,metadata.name%3Da", ""); len(get(l, "items").([]any)) != 0 {
		t.Errorf("both: %v", l)
	}
	rv := l.GetResourceVersion()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url+hostsV2+"?watch=1&fieldSelector=host%3Dtwo&resourceVersion="+rv, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	patch := func(name, value string) {
		w.ok("PATCH", hostsV1+"/"+name, `{"hostPort":"`+value+`"}`, "Content-Type: application/merge-patch+json")
	}
	patch("a", "three:1") // never matches
	patch("a", "two:1")
	patch("b", "two:9")
	patch("b", "four:1")
	w.ok("DELETE", hostsV1+"/a", "")
	events := json.NewDecoder(resp.Body)
	for _, want := range []string{"ADDED a two 1", "MODIFIED b two 9", "DELETED b two 9", "DELETED a two 1"} {
		var ev struct {
			Type   string
			Object map[string]any
		}
		if err := events.Decode(&ev); err != nil {
			t.Fatal(err)
		}
		u := unstructured.Unstructured{Object: ev.Object}
		if got := fmt.Sprint(ev.Type, " ", u.GetName(), " ", ev.Object["host"], " ", ev.Object["port"]); got != want {
			t.Errorf("event %s, want %s", got, want)
		}
	}
}

func TestStorageVersionChanges(t *testing.T) {
	w, h := newWorld(t), newWebhook(t)
	w.define(strings.Replace(twoVersions, "CONVERSION", h.conversion(), 1))
	w.ok("POST", hostsV1, host("v1", "a", "hostPort: old:1"))
	path := definitionsPath + "/hosts.stable.example.com"
	d := w.ok("PATCH", path, `[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`,
		"Content-Type: application/json-patch+json")
	if got := fmt.Sprint(get(d, "status.storedVersions")); got != "[v1 v2]" {
		t.Errorf("stored versions %s", got)
	}
	w.until(hostsV2+"/a", func(u *unstructured.Unstructured) bool { return u != nil && u.Object["host"] == "old" })
	w.ok("PATCH", hostsV2+"/a", `{"port":"7"}`, "Content-Type: application/merge-patch+json")
	if u := w.ok("GET", hostsV1+"/a", ""); u.Object["hostPort"] != "old:7" {
		t.Errorf("%v", u.Object)
	}
	w.refused(422, []string{"status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"}, "PATCH", path, `[{"op":"remove","path":"/spec/versions/0"}]`,
		"Content-Type: application/json-patch+json")
}

func TestNoneConversion(t *testing.T) {
	w := newWorld(t)
	w.define(strings.Replace(twoVersions, "CONVERSION", "{strategy: None}", 1))
	w.ok("POST", hostsV1, host("v1", "a", "hostPort: x"))
	if u := w.ok("GET", hostsV2+"/a", ""); u.GetAPIVersion() != "stable.example.com/v2" || u.Object["hostPort"] != nil || u.Object["port"] != "80" {
		t.Errorf("%v", u.Object)
	}
	// Whose fields those are cannot be told across schemas without a field of
	// the other, and is not guessed; upstream answers the same.
	w.refused(500, []string{"failed to convert new object: .host: field not declared in schema"},
		"PATCH", hostsV2+"/a?fieldManager=m", host("v2", "a", "host: other"), "Content-Type: application/apply-patch+yaml")
	u := w.ok("PATCH", hostsV2+"/a?fieldManager=m", host("v2", "a", ""), "Content-Type: application/apply-patch+yaml")
	if u.GetAPIVersion() != "stable.example.com/v2" {
		t.Errorf("%v", u.Object)
	}
}
