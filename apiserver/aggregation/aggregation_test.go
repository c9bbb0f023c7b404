package aggregation

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
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
	if _, err := b.agg.keepLocal(ctx); err != nil {
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
	if len(extra) != 1 || extra[0].Resources[0].Name != "flunders" || now == before {
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
