package apiserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/apiserver"
	"github.com/coxswain/cox/client"
)

// Answers that differ from kind to kind, or by the form that is asked for, as
// Kubernetes 1.36 gives them to the same requests, in this order.
func TestAnswersOfKinds(t *testing.T) {
	w := builtinWorld(t)
	const (
		ns     = "/api/v1/namespaces/default"
		events = "/apis/events.k8s.io/v1/namespaces/default/events"
		slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
		leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
		one    = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
		many   = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
		pod    = `{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}`
	)
	for _, tc := range []struct {
		method, path, body, accept string
		code                       int
		want                       string
	}{
		// What is not there is made by a PUT of some kinds only.
		{"PUT", "/apis/scheduling.k8s.io/v1/priorityclasses/x", `{"metadata":{"name":"x"}}`, "", 404, `priorityclasses.scheduling.k8s.io \"x\" not found`},
		{"PUT", "/apis/networking.k8s.io/v1/ipaddresses/x", `{"metadata":{"name":"x"}}`, "", 404, `not found`},
		{"PUT", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/x", `{"metadata":{"name":"x"}}`, "", 404, `not found`},
		{"PUT", "/apis/node.k8s.io/v1/runtimeclasses/x", `{"metadata":{"name":"x"},"handler":"h"}`, "", 201, `"handler":"h"`},
		{"PUT", leases + "/x", `{"metadata":{"name":"x","uid":"u"}}`, "", 409, `Key: /registry/leases/default/x, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: u, UID in object meta: "`},
		{"PUT", leases + "/x", `{"metadata":{"name":"x","resourceVersion":"5"}}`, "", 201, `"name":"x"`},
		// Events are told of in the group that they are asked for in.
		{"GET", events + "/e", "", "", 404, `events.events.k8s.io \"e\" not found","reason":"NotFound","details":{"name":"e","group":"events.k8s.io","kind":"events"}`},
		{"POST", ns + "/events", `{"metadata":{"name":"e"},"involvedObject":{"namespace":"default"}}`, "", 201, `"name":"e"`},
		{"GET", ns + "/events/none", "", "", 404, `"events \"none\" not found"`},
		{"DELETE", events + "/e", "", "", 200, `"group":"events.k8s.io","kind":"events"`},
		// Lists have the metadata of many, objects that of one.
		{"GET", leases, "", one, 406, `you requested PartialObjectMetadata, but the requested object is a list (*coordination.LeaseList)`},
		{"GET", leases + "/x", "", many, 406, `you requested PartialObjectMetadataList, but the requested object is not a list (*coordination.Lease)`},
		{"GET", leases + "/none", "", many, 404, `not found`},
		{"GET", ns + "/secrets", "", many, 200, `"items":null`},
		{"GET", leases, "", many, 200, `"items":[{`},
		{"DELETE", leases + "?labelSelector=no", "", one, 406, `is a list`},
		{"DELETE", leases, "", many, 200, `"kind":"PartialObjectMetadataList"`},
		{"DELETE", leases, "", many, 200, `"items":null`},
		// The second delete of a pod may leave it no time.
		{"POST", ns + "/pods", pod, "", 201, `"phase":"Pending"`},
		{"DELETE", ns + "/pods/p", `{"gracePeriodSeconds":9}`, "", 200, `"deletionGracePeriodSeconds":9`},
		{"DELETE", ns + "/pods/p", `{"gracePeriodSeconds":20}`, "", 200, `"deletionGracePeriodSeconds":9`},
		{"DELETE", ns + "/pods/p", `{"gracePeriodSeconds":0}`, "", 200, `"deletionGracePeriodSeconds":0`},
		{"GET", ns + "/pods/p", "", "", 404, `not found`},
		{"POST", ns + "/pods", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, "", 201, `"generation":1`},
		{"DELETE", ns + "/pods/p", `{"dryRun":["All"]}`, "", 200, `"deletionGracePeriodSeconds":0`},
		{"DELETE", ns + "/pods/p", "", "", 200, `"generation":2`}, // on no node, it goes at once
		// Nothing belongs to events, whatever is asked to be done with it.
		{"POST", ns + "/events", `{"metadata":{"name":"f","finalizers":["a.b/c"]},"involvedObject":{"namespace":"default"}}`, "", 201, `"name":"f"`},
		{"DELETE", ns + "/events/f", `{"propagationPolicy":"Orphan"}`, "", 200, `"finalizers":["a.b/c"]`},
		// Labels of slices count, annotations do not.
		{"POST", slices, `{"metadata":{"name":"s"},"addressType":"IPv4","endpoints":[]}`, "", 201, `"generation":1`},
		{"PUT", slices + "/s", `{"metadata":{"name":"s","labels":{"a":"b"}},"addressType":"IPv4","endpoints":[]}`, "", 200, `"generation":2`},
		{"PUT", slices + "/s", `{"metadata":{"name":"s","labels":{"a":"b"},"annotations":{"c":"d"}},"addressType":"IPv4","endpoints":[]}`, "", 200, `"generation":2`},
		{"POST", ns + "/configmaps", `{"kind":"Pod","apiVersion":"v1"}`, "", 400, `converting (v1.Pod) to (core.ConfigMap): unknown conversion`},
		// The collection of a delete is that of the revision that it names.
		{"DELETE", ns + "/configmaps?resourceVersion=1", `{}`, "", 200, `"items":[]`},
		{"POST", "/apis/apiregistration.k8s.io/v1/apiservices", `{"spec":{"version":"v1","group":"g","groupPriorityMinimum":1,"versionPriority":1}}`, "", 422, `is invalid: metadata.name: Required value: name or generateName is required"`},
	} {
		res, got := w.http(tc.method, tc.path, tc.body, "Content-Type", asJSON, "Accept", tc.accept)
		if res.StatusCode != tc.code || !strings.Contains(got, tc.want) {
			t.Errorf("%s %s %s %s:\n got %d %s\nwant %d %s", tc.method, tc.path, tc.body, tc.accept, res.StatusCode, got, tc.code, tc.want)
		}
	}
	if res, body := w.http(http.MethodPost, ns+"/pods/p/binding", `{"metadata":{"name":"p"}}`, "Content-Type", asJSON); res.StatusCode == 500 && !strings.Contains(body, `"message":"target.name: Required value"`) {
		t.Error("a binding to nothing:", body)
	}
}

// The answer to what is done to an object is shown in the form asked for, or,
// where it is a status, as that. A watch names other types than a list.
func TestFormsOfActions(t *testing.T) {
	w := builtinWorld(t, func(c *apiserver.Config) {
		c.Extensions.Actions = map[string]apiserver.ActionFunc{
			"serviceaccounts/token": func(_ context.Context, r *client.Request) (*client.Result, error) {
				return &client.Result{Created: true, Object: r.Object}, nil
			},
			"pods/eviction": func(context.Context, *client.Request) (*client.Result, error) {
				return &client.Result{Created: true, Object: &metav1.Status{Status: metav1.StatusSuccess, Code: 201}}, nil
			},
		}
	})
	const (
		ns      = "/api/v1/namespaces/default"
		one     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
		many    = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
		table   = "application/json;as=Table;g=meta.k8s.io;v=v1"
		request = `{"spec":{"expirationSeconds":3600}}`
	)
	for _, tc := range []struct {
		method, path, body, accept string
		code                       int
		want                       string
	}{
		{"POST", ns + "/serviceaccounts/a/token", request, one, 201, `"kind":"PartialObjectMetadata"`},
		{"POST", ns + "/serviceaccounts/a/token", request, "application/yaml;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", 201, "kind: PartialObjectMetadata"},
		{"POST", ns + "/serviceaccounts/a/token", request, many, 406, `the requested object is not a list (*authentication.TokenRequest)`},
		{"POST", ns + "/serviceaccounts/a/token", request, table, 406, "only the following media types are accepted"},
		{"POST", ns + "/pods/p/eviction", `{"metadata":{"name":"p"}}`, one, 201, `"status":"Success"`},
		{"POST", ns + "/pods/p/eviction", `{"metadata":{"name":"p"}}`, many, 201, `"status":"Success"`},
		{"POST", ns + "/pods/p/eviction", `{"metadata":{"name":"p"}}`, table, 406, "only the following media types are accepted"},
		{"GET", ns + "/pods?watch=1", "", "application/yaml", 406, "accepted: application/json;stream=watch"},
		{"GET", ns + "/pods?watch=1", "", "text/plain", 406, "application/vnd.kubernetes.protobuf;stream=watch"},
		{"GET", ns + "/pods/p", "", "text/plain", 406, `application/vnd.kubernetes.protobuf"`},
		{"GET", ns + "/pods/p", "", "application/*", 406, `406: Not Acceptable`},
		{"GET", ns + "/pods", "", "application/json;stream=foo", 406, `accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"`},
		{"GET", ns + "/pods", "", "application/yaml;stream=watch", 406, `"message":"only the following`},
		{"GET", ns + "/pods?watch=1", "", "application/json;as=Foo;g=meta.k8s.io;v=v1", 406, `accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"`},
		{"GET", ns + "/pods?watch=1", "", "application/yaml,application/json", 406, "accepted: application/json;stream=watch"},
		// What asks for lists on a watch gets none, nor an event: the first ends it.
		{"POST", ns + "/configmaps", `{"metadata":{"name":"a"}}`, "", 201, `"name":"a"`},
		{"GET", ns + "/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "", many, 200, ""},
		{"GET", ns + "/configmaps?watch=1&resourceVersion=0&timeoutSeconds=1&fieldSelector=metadata.name%3Dnone", "", many, 200, ""},
		{"GET", "/version", "", "application/yaml", 406, "Available representations: application/json"},
		{"GET", "/version", "", table, 200, `"major"`},
		{"GET", "/api", "", "text/plain", 406, "406: Not Acceptable"},
		{"GET", "/apis", "", "text/plain", 406, `"message":"only the following`},
		{"GET", "/apis", "", "application/*", 200, `"APIGroupList"`},
		{"GET", "/api/v1", "", "application/*", 406, "406: Not Acceptable"},
		{"GET", "/apis/", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", 406, `"message":"only the following`},
		{"GET", "/api/", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", 200, `"APIGroupDiscoveryList"`},
		{"GET", "/apis", "", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json", 200, `"APIGroupList"`},
	} {
		res, got := w.http(tc.method, tc.path, tc.body, "Content-Type", asJSON, "Accept", tc.accept)
		if res.StatusCode != tc.code || !strings.Contains(got, tc.want) {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", tc.method, tc.path, tc.accept, res.StatusCode, got, tc.code, tc.want)
		}
	}
}
