package apiserver_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/coxswain/cox/client"
)

// TestMetrics: what the field's dashboards ask for is there after a few
// requests, under upstream's names and labels.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	do := func(method, path, contentType, body string) *httptest.ResponseRecorder {
		return w.serveAny(httptest.NewRequest(method, path, strings.NewReader(body)), contentType)
	}
	const one = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"k":"v"}}`
	do("POST", cmPath, asJSON, one)
	do("PATCH", cmPath+"/one?fieldManager=me&force=true", "application/apply-patch+yaml", one)
	do("GET", cmPath, "", "")
	do("GET", "/api/v1/namespaces/forbidden/configmaps", "", "")
	do("POST", cmPath, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"v","labels":{"veto":"1"}}}`)
	if _, err := client.ConfigMaps.In(w.local, "default").Get(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	stream, err := client.ConfigMaps.In(w.remote, "default").Watch(t.Context(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Stop()
	<-stream.ResultChan()
	all := true
	listed, err := client.ConfigMaps.In(w.remote, "default").Watch(t.Context(), client.Options{SendInitialEvents: &all, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	defer listed.Stop()
	<-listed.ResultChan() // the object
	<-listed.ResultChan() // and that this was all

	do("GET", "/livez", "", "")
	do("DELETE", cmPath+"?labelSelector=nobody", "", "")
	rec := do("GET", "/metrics", "", "")
	if rec.Code != http.StatusOK {
		t.Fatal(rec.Code, rec.Body.String())
	}
	have := map[string]string{}
	families := sets.New[string]()
	for lines := bufio.NewScanner(rec.Body); lines.Scan(); {
		if family, ok := strings.CutPrefix(lines.Text(), "# TYPE "); ok && !strings.HasPrefix(family, "go_") && !strings.HasPrefix(family, "process_") {
			families.Insert(family)
		}
		name, value, _ := strings.Cut(lines.Text(), "} ")
		have[name+"}"] = value
	}
	for name, want := range map[string]string{
		`apiserver_request_total{code="200",component="",dry_run="",group="",resource="",scope="",subresource="/livez",system_client="",verb="GET",version=""}`:                                      "1",
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",system_client="",verb="DELETE",version="v1"}`:           "1",
		`apiserver_selfrequest_total{group="",resource="configmaps",subresource="",verb="GET"}`:                                                                                                      "1",
		`apiserver_watch_events_sizes_count{group="",resource="configmaps",version="v1"}`:                                                                                                            "3",
		`apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",system_client="",verb="POST",version="v1"}`:              "1",
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",system_client="",verb="APPLY",version="v1"}`:             "1",
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",system_client="kube-apiserver",verb="GET",version="v1"}`: "1",
		`apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="configmaps",scope="resource",subresource="",verb="APPLY",version="v1"}`:                               "1",
		`apiserver_response_sizes_count{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"}`:                                             "1",
		`apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"}`:                                            "2",
		`apiserver_watch_events_total{group="",resource="configmaps",version="v1"}`:                                                                                                                  "3",
		`apiserver_current_inflight_requests{request_kind="mutating"}`:                                                                                                                               "0",
		`apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="true",type="validate"}`:                                                                              "1",
		`apiserver_admission_controller_admission_duration_seconds_count{name="Veto",operation="CREATE",rejected="true",type="validate"}`:                                                            "1",
		`apiserver_watch_list_duration_seconds_count{group="",resource="configmaps",scope="namespace",version="v1"}`:                                                                                 "1",
		`authorization_attempts_total{result="no-opinion"}`:                                                                                                                                          "1",
		`apiserver_storage_objects{resource="configmaps"}`:                                                                                                                                           "1",
	} {
		if have[name] != want {
			t.Errorf("%s = %q, want %s", name, have[name], want)
		}
	}
	want := sets.New(shownFamilies...)
	if missing, more := sets.List(want.Difference(families)), sets.List(families.Difference(want)); len(missing)+len(more) > 0 {
		t.Errorf("not shown: %q; shown besides: %q", missing, more)
	}
}

// shownFamilies are the metrics that a server without store, flow control and
// webhooks of its own shows after that load, with their types as upstream has
// them.
var shownFamilies = []string{
	"apiserver_admission_controller_admission_duration_seconds histogram",
	"apiserver_admission_step_admission_duration_seconds histogram",
	"apiserver_current_inflight_requests gauge",
	"apiserver_longrunning_requests gauge",
	"apiserver_request_duration_seconds histogram",
	"apiserver_request_sli_duration_seconds histogram",
	"apiserver_request_total counter",
	"apiserver_resource_objects gauge",
	"apiserver_response_sizes histogram",
	"apiserver_selfrequest_total counter",
	"apiserver_storage_objects gauge",
	"apiserver_tls_handshake_errors_total counter",
	"apiserver_watch_events_sizes histogram",
	"apiserver_watch_events_total counter",
	"apiserver_watch_list_duration_seconds histogram",
	"authenticated_user_requests counter",
	"authentication_attempts counter",
	"authentication_duration_seconds histogram",
	"authorization_attempts_total counter",
	"authorization_duration_seconds histogram",
	"kubernetes_build_info gauge",
}
