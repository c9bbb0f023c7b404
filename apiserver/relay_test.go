package apiserver_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/coxswain/cox/apiserver/discovery"
	"github.com/coxswain/cox/client"
)

// other is another API server, behind a function.
type other struct {
	gv    schema.GroupVersion
	serve func(http.ResponseWriter, *http.Request, client.User)
}

func (o *other) Handler(gv schema.GroupVersion) func(http.ResponseWriter, *http.Request, client.User) {
	if gv != o.gv {
		return nil
	}
	return o.serve
}

func (o *other) Extra() ([]discovery.Version, int64) {
	return []discovery.Version{{GV: o.gv, Resources: []metav1.APIResource{{Name: "pods", Kind: "Theirs", Verbs: []string{"list"}}}}}, 1
}

func (o *other) Changes() int64 { return 1 }

// What another server serves, components reach through the local door, also in
// place of what this one serves itself.
func TestComponentsReachOtherServers(t *testing.T) {
	w := newWorld(t)
	gv := schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}
	door := client.As(w.srv.Door(), client.User{Name: "ann"})
	var asked string
	w.srv.SetAggregator(&other{gv, func(w http.ResponseWriter, r *http.Request, u client.User) {
		asked = r.Method + " " + r.URL.RequestURI() + " " + u.Name
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Get("watch") == "true":
			fmt.Fprintln(w, `{"type":"ADDED","object":{"apiVersion":"metrics.k8s.io/v1beta1","kind":"PodMetrics","metadata":{"name":"w"}}}`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case r.URL.Path == "/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods":
			fmt.Fprint(w, `{"apiVersion":"metrics.k8s.io/v1beta1","kind":"PodMetricsList","items":[{"metadata":{"name":"p"}}]}`)
		default:
			w.WriteHeader(http.StatusTeapot)
		}
	}})
	req := func(v client.Verb, name string) *client.Request {
		return &client.Request{Verb: v, Resource: gv.WithResource("pods"), Namespace: "ns", Name: name, Options: client.Options{Query: url.Values{"more": {"yes"}}}}
	}
	res, err := door.Do(t.Context(), req(client.List, ""))
	if err != nil || len(res.List.Items) != 1 || res.List.Items[0].(*unstructured.Unstructured).GetName() != "p" {
		t.Errorf("list: %+v %v", res, err)
	}
	if asked != "GET /apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?more=yes ann" {
		t.Errorf("asked %s", asked)
	}
	if _, err := door.Do(t.Context(), req(client.Get, "p")); apierrors.ReasonForError(err) == metav1.StatusReasonNotFound || err == nil {
		t.Errorf("a refusal: %v", err)
	}
	events, err := door.Watch(t.Context(), req(client.Watch, ""))
	if err != nil {
		t.Fatal(err)
	}
	if ev := <-events.ResultChan(); ev.Object.(*unstructured.Unstructured).GetName() != "w" {
		t.Errorf("watched %+v", ev)
	}
	events.Stop()
	for range events.ResultChan() {
	}
}
