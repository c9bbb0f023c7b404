package apiserver_test

import (
	"strings"
	"testing"
)

func TestConfigMapOverHTTP(t *testing.T) {
	w := newWorld(t)
	base := "/api/v1/namespaces/default/configmaps"
	resp, body := w.http("POST", base, `{"metadata":{"name":"a"},"data":{"k":"v"}}`, "Content-Type", "application/json")
	if resp.StatusCode != 201 || !strings.HasPrefix(body, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":"`) {
		t.Fatal(resp.StatusCode, body)
	}
	resp, body = w.http("GET", base+"/a", "")
	if resp.StatusCode != 200 || !strings.Contains(body, `"data":{"k":"v"}`) || !strings.Contains(body, `"manager":"Go-http-client"`) {
		t.Fatal(resp.StatusCode, body)
	}
	resp, body = w.http("PATCH", base+"/a", `{"data":{"l":"w","k":null}}`, "Content-Type", "application/merge-patch+json")
	if resp.StatusCode != 200 || !strings.Contains(body, `"data":{"l":"w"}`) {
		t.Fatal(resp.StatusCode, body)
	}
	resp, body = w.http("GET", base, "")
	if resp.StatusCode != 200 || !strings.HasPrefix(body, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"`) || !strings.Contains(body, `"items":[{"metadata":{"name":"a"`) {
		t.Fatal(resp.StatusCode, body)
	}
	resp, body = w.http("DELETE", base+"/a", "")
	if resp.StatusCode != 200 || !strings.Contains(body, `"details":{"name":"a","kind":"configmaps","uid":"`) {
		t.Fatal(resp.StatusCode, body)
	}
	resp, body = w.http("GET", base+"/a", "")
	if resp.StatusCode != 404 || body != `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"a\" not found","reason":"NotFound","details":{"name":"a","kind":"configmaps"},"code":404}`+"\n" {
		t.Fatal(resp.StatusCode, body)
	}
}
