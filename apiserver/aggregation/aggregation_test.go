package aggregation

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/builtin"
	"github.com/coxswain/cox/apiserver/doortest"
	"github.com/coxswain/cox/client"
)

var wardle = schema.GroupVersion{Group: "wardle.example.com", Version: "v1"}

type bench struct {
	t    *testing.T
	door *doortest.Door
	agg  *Aggregator
	seen chan *http.Request
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, door: &doortest.Door{}, seen: make(chan *http.Request, 100)}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis/wardle.example.com/v1" {
			_ = json.NewEncoder(w).Encode(metav1.APIResourceList{GroupVersion: "wardle.example.com/v1", APIResources: []metav1.APIResource{{Name: "flunders", Kind: "Flunder"}}})
			return
		}
		if strings.HasPrefix(r.URL.Path, "/openapi/") {
			http.NotFound(w, r)
			return
		}
		b.seen <- r
		_, _ = w.Write([]byte("flunders"))
	}))
	server.StartTLS()
	t.Cleanup(server.Close)
	table, err := builtin.New()
	if err != nil {
		t.Fatal(err)
	}
	b.agg = New(Config{Door: b.door, Kinds: func() []*api.Kind { return table.Kinds },
		Dial: func(ctx context.Context, _, _ string, _ int32) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		}})
	doortest.Put(b.door, APIServices, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.wardle.example.com"}, Spec: apiregistrationv1.APIServiceSpec{
		Group: wardle.Group, Version: wardle.Version, GroupPriorityMinimum: 1000, VersionPriority: 15,
		// example.com is what httptest's certificate is for; names of Services are not in it.
		InsecureSkipTLSVerify: true, Service: &apiregistrationv1.ServiceReference{Namespace: "ns", Name: "api"},
	}})
	return b
}

func (b *bench) service() {
	doortest.Put(b.door, client.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "api"}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Port: 443}},
	}})
}

func (b *bench) slice() {
	empty, port := "", int32(8443)
	doortest.Put(b.door, client.EndpointSlices, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "api-1", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}},
		Ports:      []discoveryv1.EndpointPort{{Name: &empty, Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}},
	})
}

// step does by hand what Run does when something changed.
func (b *bench) step() {
	b.t.Helper()
	ctx := b.t.Context()
	list, _, err := APIServices.In(b.door, "").List(ctx, client.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range list {
		_ = b.agg.list.GetStore().Add(s)
	}
	b.agg.follow()
	if err := b.agg.keepLocal(ctx); err != nil {
		b.t.Fatal(err)
	}
	b.agg.check(ctx)
}

func (b *bench) condition() (apiregistrationv1.ConditionStatus, string) {
	s, err := APIServices.In(b.door, "").Get(b.t.Context(), "v1.wardle.example.com")
	if err != nil || len(s.Status.Conditions) != 1 {
		b.t.Fatal(s, err)
	}
	return s.Status.Conditions[0].Status, s.Status.Conditions[0].Reason
}

func (b *bench) call() *httptest.ResponseRecorder {
	serve := b.agg.Handler(wardle)
	if serve == nil {
		b.t.Fatal("the group version is not passed on")
	}
	r := httptest.NewRequest(http.MethodGet, "/apis/wardle.example.com/v1/flunders?limit=1", nil)
	r.Header.Set("X-Remote-User", "liar")
	r.Header.Set("X-Remote-Extra-Scopes", "all")
	r.Header.Set("Authorization", "Bearer secret")
	w := httptest.NewRecorder()
	serve(w, r, client.User{Name: "ann", Groups: []string{"a", "b"}, Extra: map[string][]string{"k/v": {"1"}}})
	return w
}

func TestPassesOnWhatIsAvailable(t *testing.T) {
	b := newBench(t)
	b.step()
	if status, reason := b.condition(); status != "False" || reason != "ServiceNotFound" {
		t.Errorf("without a Service: %s, %s", status, reason)
	}
	if w := b.call(); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a Service the answer is %d", w.Code)
	}
	b.service()
	b.step()
	if _, reason := b.condition(); reason != "EndpointsNotFound" {
		t.Errorf("without endpoints: %s", reason)
	}
	before := b.agg.Changes()
	b.slice()
	b.step()
	if status, reason := b.condition(); status != "True" || reason != "Passed" {
		t.Fatalf("with endpoints: %s, %s", status, reason)
	}
	extra, now := b.agg.Extra()
	if len(extra) != 1 || extra[0].Stale || extra[0].Resources[0].Name != "flunders" || now == before {
		t.Errorf("discovery has %v", extra)
	}
	if w := b.call(); w.Code != http.StatusOK || w.Body.String() != "flunders" {
		t.Fatalf("answer %d %s", w.Code, w.Body)
	}
	h := (<-b.seen).Header
	if h.Get("X-Remote-User") != "ann" || len(h["X-Remote-Group"]) != 2 || h.Get("X-Remote-Extra-K%2fv") != "1" ||
		h.Get("X-Remote-Extra-Scopes") != "" || h.Get("Authorization") != "" {
		t.Errorf("headers %v", h)
	}
}

// A custom group's APIService is the server's own; that of a built-in group
// someone else may take over.
func TestPutsLocalRight(t *testing.T) {
	b := newBench(t)
	table := b.agg.cfg.Kinds()
	custom := *table[0]
	custom.Views = []api.View{{GroupVersionKind: schema.GroupVersionKind{Group: "stable.example.com", Version: "v1", Kind: "CronTab"}}}
	b.agg.cfg.Kinds = func() []*api.Kind { return append(table, &custom) }
	take := func(gv schema.GroupVersion, mark string) {
		doortest.Put(b.door, APIServices, &apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managed: mark}},
			Spec: apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 1, VersionPriority: 1,
				Service: &apiregistrationv1.ServiceReference{Namespace: "ns", Name: "api"}},
		})
	}
	take(schema.GroupVersion{Group: "stable.example.com", Version: "v1"}, "true")
	take(schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}, "true")
	b.step()
	b.step()
	get := func(name string) *apiregistrationv1.APIService {
		s, err := APIServices.In(b.door, "").Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := get("v1.stable.example.com"); s.Spec.Service != nil || s.Spec.GroupPriorityMinimum != 1000 || !isLocal(s) {
		t.Errorf("of a custom group: %+v", s)
	}
	if s := get("v1beta1.metrics.k8s.io"); s.Spec.Service == nil || isLocal(s) {
		t.Errorf("of metrics.k8s.io: %+v", s)
	}
}

func TestNamesTheUserAndNoOneElse(t *testing.T) {
	h := http.Header{
		"X-Remote-Group": {"system:masters"}, "x-remote-extra-y": {"z"}, "Impersonate-User": {"root"}, "Authorization": {"Bearer t"},
		"Sec-Websocket-Protocol": {"v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4", "v4.channel.k8s.io"},
	}
	setUser(h, client.User{Name: "ann", UID: "u", Groups: []string{"g"}, Extra: map[string][]string{"a.io/b:c=%": {"1", "2"}}})
	want := http.Header{
		"X-Remote-User": {"ann"}, "X-Remote-Uid": {"u"}, "X-Remote-Group": {"g"}, "X-Remote-Extra-A.io%2fb%3ac%3d%25": {"1", "2"},
		"Sec-Websocket-Protocol": {"v5.channel.k8s.io,v4.channel.k8s.io"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("headers %v\nwant    %v", h, want)
	}
}

func TestPartOf(t *testing.T) {
	const op = `{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.Flunder"}}}}}`
	doc := func(paths, definitions, more string) []byte {
		return []byte(`{"swagger":"2.0","info":{"title":"t","version":"1"},"paths":{` + paths + `},"definitions":{` + definitions + `}` + more + `}`)
	}
	own := `"/apis/wardle.example.com/v1/flunders":` + op
	flunder := `"com.example.Flunder":{"type":"object","properties":{"metadata":{"$ref":"#/definitions/io.k8s.Meta"}},
		"x-kubernetes-group-version-kind":[{"group":"","kind":"Pod","version":"v1"},{"group":"wardle.example.com","kind":"Flunder","version":"v1"}]}`
	meta := `"io.k8s.Meta":{"type":"object"}`
	p, err := partOf(doc(own+`,"/api/v1/pods":`+op, flunder+","+meta+`,"unused":{"type":"object"}`, ""), wardle)
	if err != nil || len(p.paths) != 1 || len(p.definitions) != 2 || bytes.Contains(p.definitions["com.example.Flunder"], []byte("Pod")) {
		t.Fatalf("%s %v", p, err)
	}
	taken := map[string]bool{"com.example.Flunder": true, "io.k8s.Meta": true}
	paths, definitions := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	p.addTo(paths, definitions, func(n string) bool { return taken[n] })
	if len(definitions) != 1 || definitions["com.example.Flunder_v2"] == nil ||
		!bytes.Contains(paths["/apis/wardle.example.com/v1/flunders"], []byte(`"#/definitions/com.example.Flunder_v2"`)) {
		t.Errorf("renamed: %s %s", paths, definitions)
	}
	param := `{"get":{"parameters":[{"$ref":"#/parameters/pretty"}],"responses":{"200":{"description":"OK"}}}}`
	p, err = partOf(doc(`"/apis/wardle.example.com/v1/flunders":`+param, "", `,"parameters":{"pretty":{"name":"pretty","in":"query","type":"string"}}`), wardle)
	if err != nil || !bytes.Contains(p.paths["/apis/wardle.example.com/v1/flunders"], []byte(`"name":"pretty"`)) {
		t.Errorf("parameters: %s %v", p, err)
	}
	for name, text := range map[string][]byte{
		"dangling":   doc(own, `"com.example.Flunder":{"$ref":"#/definitions/none"}`, ""),
		"elsewhere":  doc(own, `"com.example.Flunder":{"properties":{"a":{"$ref":"http://example.com"}}}`, ""),
		"no JSON":    []byte("swagger: '2.0'"),
		"no OpenAPI": doc(`"/apis/wardle.example.com/v1/flunders":{"get":[]}`, "", ""),
		"loop":       doc(`"/apis/wardle.example.com/v1/flunders":`+param, "", `,"parameters":{"pretty":{"$ref":"#/parameters/pretty"}}`),
		"deep":       doc(`"/apis/wardle.example.com/v1/flunders":`+strings.Repeat(`{"a":`, 300)+"1"+strings.Repeat("}", 300), "", ""),
	} {
		if p, err := partOf(text, wardle); err == nil {
			t.Errorf("%s: %s", name, p)
		}
	}
}

func TestKeepsLocal(t *testing.T) {
	b := newBench(t)
	b.step()
	for _, name := range []string{"v1.", "v1.apps", "v2.autoscaling"} {
		s, err := APIServices.In(b.door, "").Get(t.Context(), name)
		if err != nil || s.Labels[managed] != "onstart" || s.Spec.Service != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := APIServices.In(b.door, "").Get(t.Context(), "v1.apiregistration.k8s.io"); err == nil {
		t.Error("the group of APIServices has one itself")
	}
	doortest.Put(b.door, APIServices, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.gone.example.com", Labels: map[string]string{managed: "true"}}})
	b.step()
	if _, err := APIServices.In(b.door, "").Get(t.Context(), "v1.gone.example.com"); err == nil {
		t.Error("the APIService of a custom group that is gone stays")
	}
}
