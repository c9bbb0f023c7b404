package apiserver_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/apiserver/audit"
)

// A record of the level RequestResponse holds what the client sent, with the
// defaults of its version, and what it was shown, in JSON.
func TestBodiesAreRecorded(t *testing.T) {
	events := &recorder{}
	policy, err := audit.ParsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n  omitManagedFields: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *apiserver.Config) { c.Audit = audit.New(policy, events, time.Now, nil) })
	w.http(http.MethodPost, cmPath, `{"metadata":{"name":"a"},"data":{"k":"v"}}`, "Content-Type", "application/json")
	const table, partial = "application/json;as=Table;g=meta.k8s.io;v=v1", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	for _, tc := range []struct {
		name, method, path, body, accept string
		request, response                string // kinds
		status, message                  string
		items                            int
	}{
		{"list", http.MethodGet, cmPath, "", "application/vnd.kubernetes.protobuf", "", "v1 ConfigMapList", "", "", 1},
		{"table", http.MethodGet, cmPath + "/a", "", table, "", "meta.k8s.io/v1 Table", "", "", 0},
		{"metadata", http.MethodGet, cmPath, "", partial, "", "meta.k8s.io/v1 PartialObjectMetadataList", "", "", 1},
		{"absent", http.MethodGet, cmPath + "/none", "", "", "", "v1 Status", "Failure", `configmaps "none" not found`, 0},
		{"refused watch", http.MethodGet, cmPath + "?watch=1&resourceVersion=x", "", "", "", "v1 Status", "Failure", "", 0},
		{"collection", http.MethodDelete, cmPath + "?fieldSelector=metadata.name%3Da&dryRun=All", `{"gracePeriodSeconds":0,"dryRun":["All"]}`, "",
			"meta.k8s.io/__internal DeleteOptions", "v1 ConfigMapList", "", "", 1},
		{"versions", http.MethodGet, "/api", "", "", "", " APIVersions", "", "", 0}, // which have no version
		{"resources", http.MethodGet, "/api/v1", "", "application/vnd.kubernetes.protobuf", "", " APIResourceList", "", "", 0},
		{"method", http.MethodPost, "/version", "", "", "", "v1 Status", "Failure", "the server does not allow this method on the requested resource", 0},
		{"unknown", http.MethodGet, "/api/v1/nopes", "", "", "", "v1 Status", "Failure", "the server could not find the requested resource", 0},
		{"delete", http.MethodDelete, cmPath + "/a", `{"apiVersion":"other/v7","kind":"DeleteOptions"}`, "", "meta.k8s.io/__internal DeleteOptions", "v1 Status", "Success", "", 0},
	} {
		w.http(tc.method, tc.path, tc.body, "Accept", tc.accept, "Content-Type", "application/json")
		ev := events.last()
		if ev == nil || ev.Stage != auditv1.StageResponseComplete {
			t.Errorf("%s: last event %+v", tc.name, ev)
			continue
		}
		var req, res struct {
			Kind, APIVersion string
			Items            []json.RawMessage
		}
		if ev.RequestObject != nil {
			_ = json.Unmarshal(ev.RequestObject.Raw, &req)
		}
		if ev.ResponseObject == nil {
			t.Errorf("%s: no answer recorded", tc.name)
			continue
		}
		raw := string(ev.ResponseObject.Raw)
		if err := json.Unmarshal(ev.ResponseObject.Raw, &res); err != nil {
			t.Errorf("%s: %v in %s", tc.name, err, raw)
		}
		if got := strings.TrimSpace(req.APIVersion + " " + req.Kind); got != tc.request {
			t.Errorf("%s: request %q, want %q", tc.name, got, tc.request)
		}
		if got := res.APIVersion + " " + res.Kind; got != tc.response || len(res.Items) != tc.items || strings.Contains(raw, "managedFields") {
			t.Errorf("%s: answer %s", tc.name, raw)
		}
		if st := ev.ResponseStatus; st.Status != tc.status || tc.message != "" && st.Message != tc.message {
			t.Errorf("%s: status %+v", tc.name, st)
		}
		if ref := ev.ObjectRef; tc.name == "collection" && ref.Name != "" {
			t.Errorf("a collection is recorded as the object %q", ref.Name)
		}
	}
	stages := map[auditv1.Stage]int{}
	w.http(http.MethodGet, cmPath+"?watch=1&resourceVersion=x", "")
	for _, e := range events.evs {
		if strings.Contains(e.RequestURI, "watch=1") {
			stages[e.Stage]++
		}
	}
	if stages[auditv1.StageResponseStarted] != 2 {
		t.Errorf("stages of two refused watches: %v", stages)
	}
}

// Who a request says that it comes from is listed in front of the connection.
func TestSourcesAreRecorded(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct{ forwarded, real, want string }{
		{"", "", "127.0.0.1"},
		{"1.2.3.4, 5.6.7.8", "9.9.9.9", "1.2.3.4 5.6.7.8 9.9.9.9 127.0.0.1"},
		{"1.2.3.4", "1.2.3.4", "1.2.3.4 127.0.0.1"},
		{"not one", "9.9.9.9", "9.9.9.9 127.0.0.1"},
		{"", "127.0.0.1", "127.0.0.1"},
	} {
		w.http(http.MethodGet, cmPath, "", "X-Forwarded-For", tc.forwarded, "X-Real-Ip", tc.real)
		if got := strings.Join(w.events.last().SourceIPs, " "); got != tc.want {
			t.Errorf("%+v: got %s", tc, got)
		}
	}
}
